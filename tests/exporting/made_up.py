"""Checkpoints of networks that nobody has trained."""

from dataclasses import asdict
from pathlib import Path

import torch

from src.experiment.build import build_module, build_net
from src.experiment.checkpoint import KEY, CheckpointMetadata
from src.experiment.config import stage_config
from src.flow.settings import FlowSettings
from tests.conftest import compose_config
from tests.helpers import randomise


def made_up(path: Path, stage: str, *overrides: str) -> Path:
    """A checkpoint of a stage of an experiment, narrow, with random weights."""
    cfg = compose_config("train", "model.backbone.width=4", *overrides)
    config = stage_config(cfg, stage)
    net = build_net(config)
    randomise(net)
    net.float()
    description = CheckpointMetadata(
        config=config,
        class_names=[f"class {number}" for number in range(config["data"]["num_classes"])],
        split=1,
        normalization=build_module(config, net).normalize.describe(),
        flow=asdict(FlowSettings()),
    )
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights, KEY: asdict(description)}, path)
    return path
