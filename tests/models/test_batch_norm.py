"""Batch norm modes in real trainings: what moves and what does not."""

from copy import deepcopy

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from src.models.modules import VideoClassifier
from tests.models.test_modules import KINDS, build, loader, random_batch, trainer

FIRST = {
    "rgb": {"bn1"},
    "flow": {"bn1"},
    "joint": {"appearance.bn1", "motion.bn1"},
}


def layers(module: VideoClassifier) -> dict[str, _BatchNorm]:
    return {name: m for name, m in module.net.named_modules() if isinstance(m, _BatchNorm)}


class Modes(pl.Callback):
    """Which layers normalize by their batch, at every update."""

    def __init__(self) -> None:
        self.seen: list[set[str]] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        assert isinstance(pl_module, VideoClassifier)
        self.seen.append({name for name, m in layers(pl_module).items() if m.training})


@pytest.mark.parametrize("mode", ["train", "frozen", "partial"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_not_frozen_moves(kind: str, mode: str) -> None:
    module, modes = build(kind, batch_norm=mode), Modes()
    for layer in layers(module).values():  # as after an earlier stage
        torch.nn.init.normal_(layer.running_mean)  # type: ignore[arg-type]
        torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    before, everything = deepcopy(module.net.state_dict()), set(layers(module))
    moving = {"train": everything, "frozen": set(), "partial": FIRST[kind]}[mode]
    # Validation in between puts the whole net into evaluation mode, and back.
    batches = loader([random_batch("abcdef")] * 2)
    trainer(max_epochs=2, callbacks=[modes]).fit(module, batches, batches)
    assert modes.seen == [moving] * 4
    changed = {
        name for name, tensor in module.net.state_dict().items() if (tensor != before[name]).any()
    }
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    of_all = {f"{layer}.{tensor}" for layer in everything for tensor in tensors}
    of_moving = {f"{layer}.{tensor}" for layer in moving for tensor in tensors}
    assert changed == set(before) - of_all | of_moving


@pytest.mark.parametrize("mode", ["frozen", "partial"])
def test_frozen_layers_are_not_the_optimizers(mode: str) -> None:
    module = build("joint", batch_norm=mode)
    groups = module.configure_optimizers()["optimizer"].param_groups
    held = {id(p) for group in groups for p in group["params"]}
    moving = FIRST["joint"] if mode == "partial" else set()
    for name, layer in layers(module).items():
        for parameter in layer.parameters():
            assert (id(parameter) in held) == parameter.requires_grad == (name in moving)
    assert len(held) == len([p for p in module.net.parameters() if p.requires_grad])


def test_converted_to_synchronized_layers() -> None:
    """As `trainer.sync_batchnorm` does: names, numbers and what is frozen stay."""
    module = build("joint", batch_norm="partial").train()
    before, clips = deepcopy(module.state_dict()), module.clips(random_batch())
    expected = deepcopy(module).classify(clips)
    inflated = SyncBatchNorm.convert_sync_batchnorm(module)
    assert inflated is module
    assert all(isinstance(layer, SyncBatchNorm) for layer in layers(module).values())
    torch.testing.assert_close(dict(module.state_dict()), dict(before), rtol=0, atol=0)
    module.train()
    assert {name for name, layer in layers(module).items() if layer.training} == FIRST["joint"]
    torch.testing.assert_close(module.classify(clips), expected)  # one process: the same
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert {group["name"] for group in groups} == {"weight", "bias", "bn_weight", "bn_bias"}
    assert [len(g["params"]) for g in groups if g["name"].startswith("bn")] == [2, 2]
