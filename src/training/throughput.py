"""How fast a stage trains, and what it waits for."""

import operator
import time
from dataclasses import astuple, dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from src.data.loading import VideoLoader
from src.utils.processes import peak_memory_gib


@dataclass(frozen=True)
class Spent:
    """What some training steps took; validation is not among them."""

    steps: int = 0  # batches of the loader; several make an update with accumulated gradients
    clips: int = 0  # of all processes
    seconds: float = 0.0  # from the end of the step before the first to the end of the last
    waiting: float = 0.0  # those of them in which the loader had no batch yet

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*map(operator.add, astuple(self), astuple(other)))

    @property
    def clips_per_second(self) -> float:
        """Of all processes together."""
        return self.clips / max(self.seconds, 1e-9)

    @property
    def data_share(self) -> float:
        """The share of the time in which nothing was there to compute on, 0..1."""
        return self.waiting / max(self.seconds, 1e-9)


class Throughput(Callback):
    """Logs time for data, time for the rest, clips per second and peak memory.

    Each is that of the steps since it was last logged, but for memory: the stage's on a GPU, the
    process's on a CPU. They are of the first process, whose clips stand for those of the others:
    all train in step. Nothing here waits for a device: over many steps the host cannot be far ahead
    of it. `stage` is all steps of this call.
    """

    def __init__(self) -> None:
        self.stage = self._before = self._now = Spent()
        self._end_of_last = 0.0
        self._updates = 0

    @property
    def recent(self) -> Spent:
        """The steps since the numbers were last logged, and those that they were made of."""
        return self._before + self._now

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, in the middle of an epoch perhaps."""
        self._updates = trainer.global_step
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)  # another stage's may be higher
        self._restart(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the validation, which may be in the middle of an epoch."""
        self._restart(trainer)

    on_train_epoch_start = on_validation_end  # nor does what came between the epochs count

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """Take the time; log when Lightning does."""
        begin = self._end_of_last
        waiting = self._restart(trainer)
        clips = len(step[1]["video"]) * trainer.world_size
        spent = Spent(1, clips, self._end_of_last - begin, waiting)
        self._now, self.stage = self._now + spent, self.stage + spent
        updates, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if updates == self._updates:
            return  # gradients are still being accumulated
        self._updates = updates
        if every and updates % every == 0:
            pl_module.log_dict(self._numbers(pl_module.device))
            self._before, self._now = self._now, Spent()

    def _restart(self, trainer: Trainer) -> float:
        """A step begins; the seconds that the loader made anyone wait until now."""
        self._end_of_last = time.perf_counter()
        loader = trainer.train_dataloader
        return loader.take_waited() if isinstance(loader, VideoLoader) else 0.0

    def _numbers(self, device: torch.device) -> dict[str, float]:
        spent, peak = self._now, peak_memory_gib()
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) / 2**30
        return {
            "time/data": spent.waiting / spent.steps,
            "time/step": (spent.seconds - spent.waiting) / spent.steps,
            "time/data_share": spent.data_share,
            "throughput/clips_per_second": spent.clips_per_second,
            "memory/peak_gib": peak,
        }
