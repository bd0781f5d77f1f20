"""Callbacks that every stage has: what its checkpoints carry, and one log line per pass."""

import logging
import time
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from src.models.checkpoints import KEY, Description

log = logging.getLogger(__name__)


class DescribeCheckpoint(pl.Callback):
    """Adds the description to every checkpoint that Lightning writes."""

    def __init__(self, description: Description) -> None:
        self.description = description

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add it as plain data."""
        checkpoint[KEY] = asdict(self.description)


def description_of(trainer: pl.Trainer) -> Description:
    """What the checkpoints of a stage's trainer carry."""
    return next(c.description for c in trainer.callbacks if isinstance(c, DescribeCheckpoint))  # type: ignore[attr-defined]


class EpochLine(pl.Callback):
    """Logs loss, clip-level accuracy and speed after every pass."""

    def __init__(self, stage: str) -> None:
        self.stage, self.start = stage, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the line; validation of this pass is over by now."""
        seconds = time.monotonic() - self.start
        metrics = trainer.callback_metrics
        parts = [f"{self.stage}: pass {trainer.current_epoch + 1} of {trainer.max_epochs}"]
        for key, title, unit in (
            ("train/loss_epoch", "loss {:.3f}", 1),
            ("train/clip/top1", "top-1 of train clips {:.1f} %", 100),
            ("val/clip/top1", "of central test clips {:.1f} %", 100),
        ):
            if key in metrics:
                parts.append(title.format(unit * float(metrics[key])))
        log.info("%s, %.1f s", ", ".join(parts), seconds)
