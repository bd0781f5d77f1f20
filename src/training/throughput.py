"""How fast a stage trains, and what it waits for."""

import time
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from src.data.loading import VideoLoader
from src.models.modules import Batch
from src.utils.machine import peak_memory_gib


@dataclass(frozen=True)
class Spent:
    """What some training steps took; validation is not among them.

    Args:
        steps: batches of the loader; several make an update where gradients are accumulated.
        clips: of all processes.
        seconds: from the end of the step before the first to the end of the last.
        waiting: those of them in which the loader had no batch yet.
    """

    steps: int = 0
    clips: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    @property
    def clips_per_second(self) -> float:
        """Of all processes together."""
        return self.clips / max(self.seconds, 1e-9)

    @property
    def data_share(self) -> float:
        """The share of the time in which nothing was there to compute on, 0..1."""
        return self.waiting / max(self.seconds, 1e-9)


class Throughput(pl.Callback):
    """Logs time for data, time for the rest, clips per second and peak memory.

    Each is that of the steps since it was last logged, but for memory: the stage's on a GPU, the
    process's on a CPU. They are of the first process, whose clips stand for those of the others:
    all train in step. Nothing here waits for a device: over many steps the host cannot be far ahead
    of it.

    Attributes:
        stage: all steps of this call.
    """

    def __init__(self) -> None:
        self.stage = self._before = self._now = Spent()
        self._end_of_last = 0.0
        self._updates = 0

    @property
    def recent(self) -> Spent:
        """The steps since the numbers were last logged, and those that they were made of."""
        return self._before + self._now

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, in the middle of an epoch perhaps."""
        self._updates = trainer.global_step
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)  # another stage's may be higher
        self._restart(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out what came between the epochs."""
        self._restart(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the validation, which may be in the middle of an epoch."""
        self._restart(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Take the time; log when Lightning does."""
        begin = self._end_of_last
        waiting = self._restart(trainer)
        step = Spent(
            1, len(batch["video"]) * trainer.world_size, self._end_of_last - begin, waiting
        )
        self._now, self.stage = self._now + step, self.stage + step
        updates, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if updates == self._updates:
            return  # gradients are still being accumulated
        self._updates = updates
        if every and updates % every == 0:
            pl_module.log_dict(self._numbers(pl_module.device))
            self._before, self._now = self._now, Spent()

    def _restart(self, trainer: pl.Trainer) -> float:
        """A step begins; the seconds that the loader made anyone wait until now."""
        self._end_of_last = time.perf_counter()
        loader = trainer.train_dataloader
        return loader.take_waited() if isinstance(loader, VideoLoader) else 0.0

    def _numbers(self, device: torch.device) -> dict[str, float]:
        spent = self._now
        on_gpu = device.type == "cuda"
        return {
            "time/data": spent.waiting / spent.steps,
            "time/step": (spent.seconds - spent.waiting) / spent.steps,
            "time/data_share": spent.data_share,
            "throughput/clips_per_second": spent.clips_per_second,
            "memory/peak_gib": (
                torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else peak_memory_gib()
            ),
        }
