"""What deals videos to a loader, and a loader that knows which ones its workers are reading."""

import gc
import logging
import multiprocessing
import re
import signal
import time
from collections.abc import Iterator
from itertools import cycle, islice
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler, default_collate
from torch.utils.data._utils import signal_handling

from src.data.dataset import MODALITIES, Sample, VideoAndEpoch
from src.data.faults import FAILED, SkipBrokenVideos, too_many_files
from src.utils.errors import UserError
from src.utils.processes import leave_signals_to_parent

log = logging.getLogger(__name__)
_TIMED_OUT = "DataLoader timed out"  # what torch says


class VideoLoader(DataLoader[dict[str, Any]]):
    """A DataLoader over videos that lists those it cannot read, and continues within an epoch.

    A decoder that hangs or crashes takes its process along, and nothing is left to say which
    file it was; then the error names the videos that `SkipBrokenVideos` knows of.

    Lightning keeps `state_dict` in checkpoints: how many batches of the epoch have been given. They
    are not read again after `load_state_dict`, whatever the number of workers.

    Args:
        dataset: knows what is being read.
        failed: gets the videos that could not be read, and why; batches are without them.
        options: those of a DataLoader.

    Raises:
        UserError: no batch came within `timeout` seconds and a video has been read for as long, a
            worker died, too many files are open, or no video of the full list could be read.
    """

    dataset: SkipBrokenVideos
    given = 0  # batches of this epoch
    waited = 0.0  # seconds that somebody waited for a batch, see `take_waited`

    def __init__(
        self, dataset: SkipBrokenVideos, failed: dict[str, str] | None = None, **options: Any
    ) -> None:
        self.failed = {} if failed is None else failed
        if options.get("num_workers"):
            Finalize(None, _kill_workers, exitpriority=0)
        super().__init__(dataset, worker_init_fn=_start_worker, **options)

    def __iter__(self) -> Any:
        self.given = getattr(self.sampler, "skip", 0) // (self.batch_size or 1)
        starts_workers = self.num_workers and self._iterator is None
        if starts_workers:
            _hear_of_dead_workers()
            # Forked processes then never collect what this one has left lying about: to free a
            # decoder is to wait for the end of its threads, and they have none of them.
            gc.freeze()
        try:
            batches = super().__iter__()
        finally:
            if starts_workers:
                gc.unfreeze()
        # Not kept: with one that knew the other, workers would stay until garbage is collected.
        return _Named(batches, self)

    def take_waited(self) -> float:
        """Seconds that somebody waited for batches since this was last asked."""
        waited, self.waited = self.waited, 0.0
        return waited

    def goes_on(self, error: RuntimeError) -> bool:
        """Whether no batch came in time although no video hangs: several of it took long."""
        if _TIMED_OUT not in str(error):
            return False
        return self.dataset.quiet() < self.timeout and not self.dataset.under_way(self.timeout)

    def explain(self, error: RuntimeError) -> UserError | None:
        """The line for an error that tells of the workers, None for another.

        Of a worker's death torch tells where the main process happens to be: in a step, too.
        """
        suspects = self.dataset.under_way()
        if "Too many open files" in str(error):
            return too_many_files("take batches from workers")
        if _TIMED_OUT in str(error):
            suspects = self.dataset.under_way(self.timeout)
            what = f"no batch came within data.loader.timeout={self.timeout:g} seconds"
        elif re.search(r"DataLoader worker .*(exited unexpectedly|killed by signal)", str(error)):
            what = "a loader's worker process died, of memory or of a video"
        else:
            return None
        names = ", ".join(str(video.path) for video in suspects)
        return UserError(
            f"{what}; under way: {names or 'no video'}. Look at them with "
            "python -m src.verify_data, or set data.loader.num_workers=0 to see where it stops"
        )

    def state_dict(self) -> dict[str, int]:
        """How far this epoch has come."""
        return {"batches": self.given, "videos": len(self.dataset), **self._parts()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch after as many batches.

        Raises:
            UserError: they were of another size, or dealt to another number of devices.
        """
        for key, value in self._parts().items():
            if state[key] != value:
                raise UserError(
                    f"training was stopped within an epoch with {key} {state[key]}, not {value}: "
                    f"keep {state[key]} until the epoch is over"
                )
        if state["videos"] != len(self.dataset):
            log.warning(
                "this epoch was begun with %d training videos, now there are %d: the rest of it is "
                "drawn from another order",
                state["videos"],
                len(self.dataset),
            )
        self.sampler.skip = state["batches"] * (self.batch_size or 1)  # type: ignore[attr-defined]

    def _parts(self) -> dict[str, int]:
        return {
            "data.batch_size": self.batch_size or 1,
            "devices": getattr(self.sampler, "ranks", 1),
        }


def _hear_of_dead_workers() -> None:
    """Have torch set its signal handler again where there is none any more.

    It does so once in a process, and Lightning puts back what was there before, so that after the
    first stage a dead worker would be told of when `timeout` is over, not at once.
    """
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL:
        signal_handling._SIGCHLD_handler_set = False


def _start_worker(_: int) -> None:
    leave_signals_to_parent()


def _kill_workers() -> None:
    """Python would ask those that hang to end, by a signal that they leave to us, and wait."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


class _Named(Iterator[dict[str, Any]]):
    def __init__(self, batches: Any, loader: VideoLoader) -> None:
        self._batches, self._loader, self._empty = batches, loader, True

    def __next__(self) -> dict[str, Any]:
        for batch in iter(self._next, None):
            self._loader.failed.update(batch.pop(FAILED, {}))
            if batch:  # one of nothing but broken videos has nothing else
                self._empty = False
                return batch
        if self._empty and self._loader.failed:
            name, reason = next(iter(self._loader.failed.items()))
            # Ranks that have seen something would wait for one that has not.
            raise UserError(f"not one video could be read, the first is {name}: {reason}")
        raise StopIteration

    def _next(self) -> dict[str, Any] | None:
        begin = time.perf_counter()
        while True:
            try:
                batch: dict[str, Any] | None = next(self._batches, None)
            except RuntimeError as error:
                if self._loader.goes_on(error):
                    continue
                if mistake := self._loader.explain(error):
                    self._kill_workers()
                    raise mistake from error
                raise
            self._loader.waited += time.perf_counter() - begin
            self._loader.given += batch is not None
            return batch

    def _kill_workers(self) -> None:
        """They may wait for a lock that a dead one holds, and torch then for each of them."""
        for process in getattr(self._batches, "_workers", ()):
            process.kill()
            process.join()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)  # Lightning looks at the iterator's own state


class EpochSampler(Sampler[VideoAndEpoch]):
    """Deals (video, epoch) pairs to the ranks of a run.

    A shuffled list is cut to pieces of equal length, repeating a few videos, because ranks train in
    step; an unshuffled one is dealt as it is, so that evaluation counts every video once. The next
    epoch leaves out its first `skip` pairs, which were dealt before a stop.

    With `repeat` a rank is dealt as many pairs over and over, in every epoch the same.
    """

    def __init__(self, count: int, seed: int, shuffle: bool, repeat: int | None = None) -> None:
        self.count, self.seed, self.shuffle, self.epoch, self.skip = count, seed, shuffle, 0, 0
        self.repeat = repeat
        distributed = torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if distributed else 0
        self.ranks = torch.distributed.get_world_size() if distributed else 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.epoch = epoch if self.repeat is None else 0

    def __len__(self) -> int:
        if self.shuffle:
            return -(-self.count // self.ranks)
        return len(range(self.rank, self.count, self.ranks))

    def __iter__(self) -> Iterator[VideoAndEpoch]:
        order = list(range(self.count))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.count, generator=generator).tolist()
            order = (order * self.ranks)[: len(self) * self.ranks]
        dealt = order[self.rank :: self.ranks]
        if self.repeat is not None:
            dealt = list(islice(cycle(dealt[: self.repeat]), len(dealt)))
        dealt, self.skip = dealt[self.skip :], 0
        return ((index, self.epoch) for index in dealt)


def collate(samples: list[Sample]) -> Sample:
    """Stack samples, but those without a video; videos of different size do not fit one batch.

    Returns:
        Tensors and names, and under `FAILED` what that of any sample tells; no entry without any.
    """
    failed: dict[str, str] = {}
    for sample in samples:
        failed |= sample.pop(FAILED, {})
    failures = {FAILED: failed} if failed else {}
    samples = [sample for sample in samples if sample]
    if not samples:
        return failures
    for modality in MODALITIES:
        shapes = {tuple(s[modality].shape[-2:]) for s in samples if modality in s}
        if len(shapes) > 1:
            raise UserError(
                f"videos of different sizes {sorted(shapes)} do not fit one batch: "
                "set data.test.batch_size=1"
            )
    return default_collate(samples) | failures
