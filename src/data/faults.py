"""Videos that cannot be read: what says so, what is done about it, and how it is reported.

A source raises `UserError` or `OSError` for a video that is broken, empty or gone. Everything else
is a bug and is raised as such.
"""

import errno
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from src.data.videos import PARTS, Video
from src.utils.errors import UserError, visible
from src.utils.ranks import of_all_ranks

UNREADABLE = (UserError, OSError)
NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)  # of the process, of the machine: of no video
FAILED = "failed"  # of a sample or batch: why videos could not be read, by their names
COUNT_AS_WRONG = "count_as_wrong"  # data.videos.missing
TRIES = 8  # videos one after the other; if none of them can be read, the place is to blame
_SHOWN = 20  # names in a message
_IDLE = -1


@dataclass(frozen=True)
class Faults:
    """Videos of a list with which something is wrong."""

    what: str  # is wrong with them, and what was done about it
    of: int  # how many videos the list has
    videos: Mapping[str, str]  # the reason for each, by name

    def __str__(self) -> str:
        """All in one line: how many, the first with its reason, and the names of the next."""
        names = list(self.videos)
        shown = [f"{name} ({self.videos[name]})" for name in names[:1]] + names[1:_SHOWN]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"{len(names)} of {self.of} {self.what}: {', '.join(map(visible, shown))}{more}"


class VideoErrors:
    """The videos of one data module that cannot be used, and why, by name.

    In training others take their place; in evaluation nothing is replaced, and whoever counts has
    to count them. By phase or part "train", "val" and "test", `unreadable` has what this process
    could not read, `missing` what was not there from the beginning, and `listed` how many videos
    there are with the missing ones.
    """

    def __init__(self) -> None:
        self.unreadable: dict[str, dict[str, str]] = {phase: {} for phase in PARTS}
        self.missing: dict[str, dict[str, str]] = {part: {} for part in PARTS}
        self.listed = dict.fromkeys(PARTS, 0)

    def of_all_ranks(self, *phases: str) -> dict[str, dict[str, str]]:
        """What any rank could not read in some phases, sorted by name; all of them must ask."""
        ranks = of_all_ranks({phase: self.unreadable[phase] for phase in phases})
        met = {phase: [item for own in ranks for item in own[phase].items()] for phase in phases}
        return {phase: dict(sorted(items)) for phase, items in met.items()}

    def faults(
        self, part: str, what: str, videos: Mapping[str, str], present: bool = False
    ) -> tuple[Faults, ...]:
        """A record of some videos of a part, out of all that are listed or that are there."""
        of = self.listed[part] - (len(self.missing[part]) if present else 0)
        return (Faults(f"{PARTS[part]} videos {what}", of, videos),) if videos else ()

    def left_out(self, part: str) -> tuple[Faults, ...]:
        """A record of what was not there from the beginning."""
        return self.faults(part, "are missing and were skipped", self.missing[part])


class SkipBrokenVideos(Dataset[dict[str, Any]]):
    """A dataset of videos that continues where one cannot be read, and knows what is being read.

    In training another video takes the place of one that fails. Which, is drawn from seed, epoch
    and the video that failed, so that the clips do not depend on processes; what failed before is
    tried again in the next epoch. In evaluation nothing is replaced: the sample holds `FAILED`
    alone.

    A video that hangs is interrupted as soon as its decoder returns to Python. C code that never
    does cannot be; then `VideoLoader` names the video when no batch comes.

    `dataset` takes (video, epoch), and has `videos`; after `time_limit` seconds a video has failed,
    0 waits on.
    """

    def __init__(
        self, dataset: Any, workers: int, replace: bool, seed: int, time_limit: float = 0
    ) -> None:
        self.dataset, self.seed, self.time_limit = dataset, seed, time_limit
        self.videos: Sequence[Video] = dataset.videos
        self._replace = replace
        # What every reading process is at, and since when, in memory that all of them share.
        count = max(workers, 1)
        self._reading = torch.full((count,), _IDLE).share_memory_()
        self._since = torch.full((count,), -math.inf, dtype=torch.float64).share_memory_()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        """Read a sample; its entry `FAILED`, if there is one, tells what was tried in vain.

        Raises:
            UserError: many videos one after the other cannot be read, or too many files are open.
        """
        failed: dict[str, str] = {}
        for index in self._tries(*draw):
            video = self.videos[index]
            try:
                self._note(index)
                with time_limit(self.time_limit, video):
                    sample: dict[str, Any] = self.dataset[index, draw[1]]
                return sample | {FAILED: failed} if failed else sample
            except UNREADABLE as error:
                if _no_more_files(error):
                    raise too_many_files(f"read {video.path}") from error
                failed[video.name] = " ".join(str(error).split()) or type(error).__name__
            finally:
                self._note(_IDLE)
        if self._replace:
            faults = Faults("videos drawn in one's place could be read", len(failed), failed)
            raise UserError(f"none of {faults}: python -m src.verify_data looks at all of them")
        return {FAILED: failed}

    def _tries(self, index: int, epoch: int) -> Iterator[int]:
        yield index
        if self._replace:
            others = np.random.default_rng((self.seed, epoch, index, 1)).permutation(len(self))
            yield from [int(other) for other in others if other != index][: TRIES - 1]

    def _note(self, index: int) -> None:
        """Let all processes know that this one reads the video `index`, or none."""
        info = get_worker_info()
        worker = info.id if info else 0
        self._since[worker] = time.monotonic()  # the machine's: one clock for all processes
        self._reading[worker] = index

    def under_way(self, seconds: float = 0) -> list[Video]:
        """The videos that have been read for so many seconds or more, and are still."""
        reading = self._reading.clone()  # it changes meanwhile
        long = (time.monotonic() - self._since >= seconds) & (reading != _IDLE)
        return [self.videos[index] for index in reading[long].tolist()]

    def quiet(self) -> float:
        """Seconds since a video was last begun or ended."""
        return time.monotonic() - float(self._since.max())


def too_many_files(to: str) -> UserError:
    """The line for a process that may open no more files `to` do something."""
    return UserError(
        f"too many files are open to {to}: raise the limit with ulimit -n, or give fewer "
        "data.loader.num_workers"
    )


def _no_more_files(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_MORE_FILES:
            return True
        error = error.__cause__
    return False


@contextmanager
def time_limit(seconds: float, video: Video) -> Iterator[None]:
    """Raise a UserError that names the video after so many seconds; 0 is no limit.

    It works in a process's main thread, which is where the workers of a loader read, and between
    two steps of the interpreter.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise UserError(
            f"video {video.path} took longer than {seconds:g} seconds, half of "
            "data.loader.timeout: replace the file or take it out of the list"
        )

    before = signal.signal(signal.SIGALRM, ring)
    # Again every second, because an error raised in a destructor is lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
