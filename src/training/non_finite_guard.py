"""Logs the norms of gradients, and stops a run whose loss or gradients are not finite."""

import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from src.models.modules import VideoClassifier
from src.utils.errors import UserError
from src.utils.ranks import of_all_ranks


class NonFiniteGuard(Callback):
    """Logs gradient norms, and stops before the update if a loss or a norm is not finite.

    All ranks stop together, with the line of the one whose own batch it was. Only updates wait for
    the device, not each batch that is accumulated for one.

    A float16 scaler skips an update whose gradients overflow and lowers its scale, so they are no
    failure while the scale is at least one. A loss that is not finite always is.
    """

    def __init__(self) -> None:
        self._videos: list[str] = []
        # Of each batch of the update: its videos, its losses, the norms of the gradients so far.
        self._batches: list[tuple[list[str], dict[str, Tensor]]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *step: Any
    ) -> None:
        """Remember the videos."""
        self._videos = step[0]["video"]

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the losses and the norms, on the device."""
        assert isinstance(pl_module, VideoClassifier)
        losses = {f"loss of {name}": loss for name, loss in pl_module.last_losses.items()}
        self._batches.append((self._videos, losses | gradient_norms(pl_module)))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Stop if any of them is not finite; else log the norms every `log_every_n_steps`."""
        batches, self._batches = self._batches, []
        if not batches:  # no backward pass: StochasticWeightAveraging's epoch for batch norm
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler else 0.0
        rows = torch.stack([torch.stack([*values.values()]) for _, values in batches]).tolist()
        failures = []
        for index, ((videos, values), row) in enumerate(zip(batches, rows, strict=True)):
            for place, (name, value) in enumerate(zip(values, row, strict=True)):
                if not math.isfinite(value) and not (name.startswith("grad_norm") and scale >= 1):
                    line = f"{name} is {value}; videos of the batch: {', '.join(videos)}"
                    failures.append((index, place, line))
        if trainer.strategy.reduce_boolean_decision(bool(failures), all=False):
            # Losses come before norms, which are those of all ranks by now.
            _, _, line = min(failure for ranks in of_all_ranks(failures) for failure in ranks)
            raise UserError(
                f"{_epoch(trainer)}, step {trainer.global_step}: {line}; run the same command with "
                "+trainer.detect_anomaly=true to see the operation, or lower the learning rate "
                "(with resume=force to resume from the last checkpoint)"
            )
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:
            norms = {name: v for name, v in batches[-1][1].items() if name.startswith("grad_norm")}
            pl_module.log_dict({f"train/{name}": v / (scale or 1) for name, v in norms.items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before running statistics that are not finite are saved: no loss depends on them."""
        buffers = pl_module.get_submodule("net").named_buffers()
        bad = [name for name, buffer in buffers if not bool(buffer.isfinite().all())]
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            raise UserError(
                f"{_epoch(trainer)}: {bad[0] if bad else 'a running statistic'} is not finite, "
                "which validation and test depend on but the loss of training does not: look at "
                "the weights that this stage starts from, and at its videos"
            )


def gradient_norms(module: VideoClassifier) -> dict[str, Tensor]:
    """The norm of all gradients as "grad_norm", and that of each of several streams by its name."""
    streams = module.streams if len(module.streams) > 1 else ()
    parts = {f"grad_norm_{name}": module.net.get_submodule(name) for name in streams}
    return {
        name: get_total_norm([p.grad for p in part.parameters() if p.grad is not None])
        for name, part in {**parts, "grad_norm": module.net}.items()
    }


def _epoch(trainer: Trainer) -> str:
    stage = Path(trainer.default_root_dir).name  # its directory has its name
    return f"stage {stage}, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
