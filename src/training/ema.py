"""An exponential moving average of the weights, on top of Lightning's callback for averages."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Averages weights and batch norm statistics after every update: average += (1 - d) * change.

    Validation and, after training, testing and the checkpoint's weights are the average; the
    checkpoint also holds what training goes on from. The n-th update has d = min(decay, n / (n +
    9)), so that a short training is not stuck with its first weights.

    Lightning's own `EMAWeightAveraging` has no such start, rounds what does not change, keeps
    the average on the CPU when training on a GPU, and leaves a run that was stopped between its
    last pass and its test with the weights of the last update.

    Args:
        decay: 0..1, the longest memory: about 1 / (1 - decay) updates.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay={decay}: needs a number from 0, less than 1")
        self.decay = decay
        super().__init__(multi_avg_fn=self._update)

    def _update(self, averages: Sequence[Tensor], now: Sequence[Tensor], updates: Any) -> None:
        """Update tensors of one type in place; `updates` counts those before this one."""
        if averages[0].is_floating_point():
            count = int(updates) + 1
            decay = min(self.decay, count / (count + 9))
            torch._foreach_lerp_(list(averages), list(now), 1 - decay)  # exact where nothing moves
        else:
            torch._foreach_copy_(list(averages), list(now))  # counters

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the module, which was still on the CPU when the average was made."""
        if self._average_model is not None:
            self._average_model.to(pl_module.device)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Use the average, also when a checkpoint left no pass to train."""
        if self._average_model is not None:
            self._copy_average_to_current(pl_module)
