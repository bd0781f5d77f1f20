"""The moving average of the weights: its numbers, and who gets to see it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from src.training.callbacks import EMA
from tests.models.test_modules import build, loader, random_batch, trainer

DECAY = 0.25


class Watch(pl.Callback):
    """The weights after every update, and those that validation sees."""

    def __init__(self) -> None:
        self.after_update: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        self.after_update.append(copy.deepcopy(dict(pl_module.state_dict())))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        self.validated.append(copy.deepcopy(dict(pl_module.state_dict())))


def averages_by_hand(weights: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The average after every update: short memory at first, 2/11 then 3/12 of the past, ..."""
    averages = [weights[0]]
    for number, now in enumerate(weights[1:], start=2):
        decay = min(DECAY, number / (number + 9))
        last = averages[-1]
        averages.append(
            {
                name: decay * last[name] + (1 - decay) * tensor
                if tensor.is_floating_point()
                else tensor
                for name, tensor in now.items()
            }
        )
    return averages


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(found), dict(expected), rtol=1e-5, atol=1e-7)


def test_average_by_hand() -> None:
    """Weights, running statistics and counters; validation and the end of training see it."""
    module, watch = build("joint"), Watch()
    batches = loader([random_batch() for _ in range(3)])
    runner = trainer(max_epochs=2, callbacks=[watch, EMA(DECAY)], num_sanity_val_steps=0)
    runner.fit(module, batches, loader([random_batch()]))
    averages = averages_by_hand(watch.after_update)
    assert (len(averages), len(watch.validated)) == (6, 2)
    assert_same(watch.validated[0], averages[2])
    assert_same(watch.validated[1], averages[5])
    assert_same(module.state_dict(), averages[5])
    moved = [name for name in averages[5] if (averages[5][name] != averages[0][name]).any()]
    assert {"net.motion.conv1.weight", "net.motion.bn1.running_var"} <= set(moved)


def test_what_does_not_move_is_not_rounded() -> None:
    module = build("rgb", batch_norm="frozen")
    for layer in module.net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight)
            torch.nn.init.uniform_(layer.running_mean)  # type: ignore[arg-type]
    before, mean = copy.deepcopy(module.state_dict()), module.normalize.rgb_mean.clone()
    batches = loader([random_batch()] * 4)
    trainer(max_epochs=1, callbacks=[EMA(0.9)]).fit(module, batches)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("bn" in name or "downsample.1" in name), name
    assert torch.equal(module.normalize.rgb_mean, mean)


def test_updates_are_counted_not_batches() -> None:
    module, watch = build("flow"), Watch()
    batches = loader([random_batch() for _ in range(4)])
    runner = trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[watch, EMA(DECAY)])
    runner.fit(module, batches)
    assert_same(module.state_dict(), averages_by_hand(watch.after_update[1::2])[-1])


@pytest.mark.slow
def test_training_goes_on_where_it_was(tmp_path: Path) -> None:
    """Stopped and continued is the same as trained in one go; a checkpoint holds the average."""
    batches = loader([random_batch() for _ in range(2)])
    start = build("flow")

    def train(epochs: int, checkpoint: Path | None = None) -> tuple[pl.Trainer, dict[str, Tensor]]:
        module = copy.deepcopy(start)
        runner = trainer(max_epochs=epochs, callbacks=[EMA(DECAY)])
        runner.fit(module, batches, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        return runner, dict(module.state_dict())

    class Save(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch + 1}.ckpt")

    module = copy.deepcopy(start)
    trainer(max_epochs=2, callbacks=[EMA(DECAY), Save()]).fit(module, batches)
    whole = dict(module.state_dict())
    for epochs in (1, 2):
        content = torch.load(tmp_path / f"{epochs}.ckpt", weights_only=True)
        assert_same(content["state_dict"], train(epochs)[1])
        assert_same(train(2, tmp_path / f"{epochs}.ckpt")[1], whole)  # from 2: no epoch is left
    current = content["current_model_state"]["net.conv1.weight"]
    assert not torch.equal(current, whole["net.conv1.weight"])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.ema\.decay=.*needs a number from 0"):
        EMA(decay)
