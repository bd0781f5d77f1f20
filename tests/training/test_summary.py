"""The networks of an experiment in tables, without data and without training."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from src import train
from src.errors import UserError
from src.experiment.config import config_diff, stage_config, stage_configs
from src.models.cost import Cost, costs
from src.models.resnet import appearance_stream
from src.training.checks import module_without_data
from src.training.summary import summarize
from tests.conftest import compose_config


def test_resnet50_costs_what_everybody_says() -> None:
    """4.09 G products and 25.56 M parameters, as torchvision documents them."""
    with torch.device("meta"):
        net, image = appearance_stream(1000).eval(), torch.empty(1, 3, 1, 224, 224)
    parts, temporal = costs(net, lambda: net(image))
    assert [part for _, part in parts] == ["stem", *(f"layer{s}" for s in (1, 2, 3, 4)), "fc"]
    assert sum(cost.parameters for cost in parts.values()) == 25_557_032
    assert sum(cost.flops for cost in parts.values()) == pytest.approx(2 * 4.089e9, rel=1e-3)
    assert parts["", "stem"] == Cost(64 * 3 * 49 + 128, 2 * 64 * 3 * 49 * 112**2, (1, 64, 56, 56))
    assert parts["", "fc"] == Cost(2049 * 1000, 2 * 2048 * 1000, (1, 1000))
    assert temporal == {}


def test_parts_of_joined_streams_add_up() -> None:
    """Units of a stage are called one by one there, and filters look along time."""
    config = compose_config("train", "experiment=st_multiplier_hmdb51")
    module, batch = module_without_data(stage_config(config, "joint"))
    parts, temporal = costs(module.net, lambda: module.logits(batch))
    with FlopCounterMode(display=False) as counter:
        module.logits(batch)
    assert sum(cost.flops for cost in parts.values()) == counter.get_total_flops()
    all_parameters = sum(parameter.numel() for parameter in module.net.parameters())
    assert sum(cost.parameters for cost in parts.values()) == all_parameters
    assert parts["motion", "layer3"].shape == (5, 1024, 14, 14)
    injected = sum(width * (3 * width + 1) for width in (64, 128, 256, 512))
    assert temporal["motion"].parameters == temporal["appearance"].parameters == injected


def test_another_network_is_shown_by_its_children() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 5)))
    parts, _ = costs(net, lambda: net(torch.zeros(1, 3, 4, 4)))
    assert parts == {
        ("", "0"): Cost(32, 2 * 24 * 16, (1, 8, 4, 4)),
        ("", "1"): Cost(129 * 5, 2 * 128 * 5, (1, 5)),
    }


def test_tables_of_the_chosen_stages_fit_a_log_file() -> None:
    out = io.StringIO()
    cfg = compose_config("train", "experiment=st_resnet_ucf101", "skip=[appearance,joint]")
    summarize(stage_configs(cfg), Console(file=out, width=80))
    lines = [" ".join(line.replace("│", " ").split()) for line in out.getvalue().splitlines()]
    titles = [line for line in lines if "clips of" in line]
    assert titles == [
        "motion: flow, clips of 1 x 224 x 224",
        "joint_pooled: rgb, flow, clips of 11 x 224 x 224",
    ]
    assert lines.count("layer3 1024 x 11 x 14 x 14 8.147 36.737") == 2
    assert "motion stem 64 x 1 x 56 x 56 0.063 1.574" in lines
    assert "fc 101 x 4 0.207 0.002" in lines
    assert "temporal_pool: size=5, stride=2, kind=max" in lines
    with pytest.raises(UserError, match="only=joint: this experiment has the stages"):
        stage_configs(compose_config("train", "experiment=two_stream_ucf101", "only=joint"))


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
