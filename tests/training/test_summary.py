"""The networks of an experiment in tables, without data and without training."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from src import train
from src.experiment.config import config_diff, stage_config, stage_configs
from src.training.checks import module_without_data
from src.training.summary import summarize
from src.utils.errors import UserError
from tests.conftest import compose_config


def table_of(configs: dict[str, Any]) -> list[str]:
    """The lines that are printed, without lines between cells."""
    out = io.StringIO()
    summarize(configs, Console(file=out, width=80))
    return [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]


@pytest.mark.slow
def test_resnet50_costs_what_everybody_says() -> None:
    """4.09 G products and 25.56 M parameters, as torchvision documents them, for 1000 classes."""
    cfg = compose_config("train", "experiment=appearance_hmdb51", "data.num_classes=1000")
    lines = table_of(stage_configs(cfg))
    assert "net 25.557 8.178" in lines
    assert "net.conv1 1 x 64 x 112 x 112 0.009 0.236" in lines
    assert "net.fc 1 x 1000 2.049 0.004" in lines


@pytest.mark.slow
def test_tables_of_the_chosen_stages_fit_a_log_file() -> None:
    cfg = compose_config("train", "experiment=st_resnet_ucf101", "skip_stages=[appearance,joint]")
    lines = table_of(stage_configs(cfg))
    assert [line for line in lines if "clips of" in line] == [
        "motion: flow, clips of 1 x 224 x 224",
        "joint_pooled: rgb, flow, clips of 11 x 224 x 224",
    ]
    for stream in ("appearance", "motion"):
        assert f"net.{stream}.layer3 11 x 1024 x 14 x 14 8.147 36.737" in lines
    assert "net.motion.fc 4 x 101 0.207 0.002" in lines
    assert "temporal_pool: size=5, stride=2, kind=max" in lines
    with pytest.raises(UserError, match="run_stages=joint: this experiment has the stages"):
        stage_configs(compose_config("train", "experiment=two_stream_ucf101", "run_stages=joint"))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["st_multiplier_hmdb51", "st_resnet_hmdb51"])
def test_parts_of_joined_streams_add_up(experiment: str) -> None:
    """Units of a stage are called one by one there, and filters look along time."""
    config = stage_config(compose_config("train", f"experiment={experiment}"), "joint")
    module, batch = module_without_data(config)
    with FlopCounterMode(display=False) as counter:
        module.logits(batch)
    lines = table_of({"joint": config})
    (total,) = (line.split()[1:] for line in lines if line.startswith("net "))
    parameters = sum(parameter.numel() for parameter in module.net.parameters())
    assert float(total[0]) == pytest.approx(parameters / 1e6, abs=1e-3)
    assert float(total[1]) == pytest.approx(counter.get_total_flops() / 1e9, abs=1e-3)
    cells = [line.split() for line in lines if line.startswith("net.")]
    streams = [row[1:] for row in cells if len(row) == 3]  # without an output
    for column in (0, 1):
        values = [float(stream[column]) for stream in streams]
        assert sum(values) == pytest.approx(float(total[column]), abs=2e-3)


def test_the_command_needs_and_leaves_nothing(
    call: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("experiment=appearance_ucf101", "debug=summary", "model/backbone=resnet18")
    assert call(train.main, *arguments) == 0
    assert "appearance: rgb, clips of 1 x 224 x 224" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_configs_of_stages_are_printed(
    call: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is printed can be read back, and is what a stage is built from."""
    monkeypatch.chdir(tmp_path)
    chosen = (
        "experiment=st_resnet_hmdb51",
        "stages.joint.optimizer.lr=2e-3",
        "skip_stages=[appearance]",
    )
    assert call(train.main, *chosen, "debug=config") == 0
    printed: Any = OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))
    assert list(printed["stages"]) == ["motion", "joint", "joint_pooled"]
    joint = printed["stages"]["joint"]
    assert joint["optimizer"]["lr"] == 2e-3
    assert joint["data"]["batch_size"] * 32 == joint["effective_batch_size"] == 128
    same = stage_config(compose_config("train", *chosen), "joint")
    assert config_diff(joint, same) is None
    assert not list(tmp_path.iterdir())
