"""The networks of an experiment in tables, without data and without training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from src import train
from src.errors import UserError
from src.experiment.config import config_diff, stage_config, stage_configs
from src.training.checks import module_without_data
from src.training.summary import summarize
from tests.conftest import compose_config


def test_tables_of_the_chosen_stages(capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose_config("train", "experiment=st_resnet_ucf101", "skip=[appearance,joint]")
    summarize(stage_configs(cfg))
    lines = [
        " ".join(line.replace("|", " ").split()) for line in capsys.readouterr().out.splitlines()
    ]
    titles = [line for line in lines if "clips of" in line]
    assert titles == [
        "motion: flow, clips of 1 x 224 x 224",
        "joint_pooled: rgb, flow, clips of 11 x 224 x 224",
    ]
    print(chr(10).join(lines))
    assert "temporal_pool: size=5, stride=2, kind=max" in lines
    with pytest.raises(UserError, match="only=joint: this experiment has the stages"):
        stage_configs(compose_config("train", "experiment=two_stream_ucf101", "only=joint"))


@pytest.mark.parametrize("experiment", ["st_multiplier_hmdb51", "st_resnet_hmdb51"])
def test_totals_are_of_the_whole_network(
    experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Units of joined streams are called one by one, and filters look along time."""
    config = stage_config(compose_config("train", f"experiment={experiment}"), "joint")
    module, batch = module_without_data(config)
    with FlopCounterMode(display=False) as counter:
        module.logits(batch)
    summarize({"joint": config})
    printed = capsys.readouterr().out
    parameters = sum(parameter.numel() for parameter in module.net.parameters())
    print(printed, parameters, counter.get_total_flops())


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


def test_the_configs_of_stages_are_printed(
    call: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is printed can be read back, and is what a stage is built from."""
    monkeypatch.chdir(tmp_path)
    chosen = ("experiment=st_resnet_hmdb51", "stages.joint.optimizer.lr=2e-3", "skip=[appearance]")
    assert call(train.main, *chosen, "debug=config") == 0
    printed: Any = OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))
    assert list(printed["stages"]) == ["motion", "joint", "joint_pooled"]
    joint = printed["stages"]["joint"]
    assert joint["optimizer"]["lr"] == 2e-3
    assert joint["data"]["batch_size"] * 32 == joint["effective_batch_size"] == 128
    same = stage_config(compose_config("train", *chosen), "joint")
    assert config_diff(joint, same) is None
    assert not list(tmp_path.iterdir())
