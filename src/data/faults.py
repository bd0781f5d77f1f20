"""Videos that cannot be read: what says so, what is done about it, and how it is told.

A source raises `UserError` or `OSError` for a video that is broken, empty or gone. Everything else
is a bug and is raised as such.
"""

import errno
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from src.data.splits import Video
from src.errors import UserError
from src.text import visible

UNREADABLE = (UserError, OSError)
NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)  # of the process, of the machine: of no video
FAILED = "failed"  # of a sample or batch: why videos could not be read, by their names
COUNT_AS_WRONG = "count_as_wrong"  # data.videos.missing
TRIES = 8  # videos one after the other; if none of them can be read, the place is to blame
_SHOWN = 20  # names in a message


@dataclass(frozen=True)
class Faults:
    """Videos of a list with which something is wrong.

    Args:
        what: is wrong with them, and what was done about it.
        of: how many videos the list has.
        videos: the reason for each, by name.
    """

    what: str
    of: int
    videos: Mapping[str, str]

    def __str__(self) -> str:
        """All in one line: how many, the first with its reason, and the names of the next."""
        names = list(self.videos)
        shown = [f"{name} ({self.videos[name]})" for name in names[:1]] + names[1:_SHOWN]
        shown = [*map(visible, shown)]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"{len(names)} of {self.of} {self.what}: {', '.join(shown)}{more}"


class FaultTolerant(Dataset[dict[str, Any]]):
    """A dataset of videos that goes on where one cannot be read.

    In training another video takes the place of one that fails. Which, is drawn from seed, pass and
    the video that failed, so that the clips do not depend on processes; what failed before is tried
    again in the next pass. In evaluation nothing is replaced: the sample holds `FAILED` alone.

    A video that hangs is interrupted as soon as its decoder returns to Python. C code that never
    does cannot be; then `VideoLoader` names the video when no batch comes.

    Args:
        dataset: takes (video, pass), see `UnderWay`.
        videos: those that the dataset counts.
        replace: whether to draw another.
        seed: of the draws.
        time_limit: seconds after which a video has failed; 0 waits on.
    """

    def __init__(
        self,
        dataset: Any,
        videos: Sequence[Video],
        replace: bool,
        seed: int,
        time_limit: float = 0,
    ) -> None:
        self.dataset, self.seed, self.time_limit = dataset, seed, time_limit
        self._videos, self._replace = videos, replace

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        """Read a sample; its entry `FAILED`, if there is one, tells what was tried in vain.

        Raises:
            UserError: many videos one after the other cannot be read, or too many files are open.
        """
        failed: dict[str, str] = {}
        for index in self._tries(*draw):
            video = self._videos[index]
            try:
                with time_limit(self.time_limit, video):
                    sample = self.dataset[index, draw[1]]
                return sample | {FAILED: failed} if failed else sample
            except UNREADABLE as error:
                if _no_more_files(error):
                    raise too_many_files(f"read {video.path}") from error
                failed[video.name] = " ".join(str(error).split()) or type(error).__name__
        if self._replace:
            faults = Faults("videos drawn in one's place could be read", len(failed), failed)
            raise UserError(f"none of {faults}: python -m src.verify_data looks at all of them")
        return {FAILED: failed}

    def _tries(self, index: int, epoch: int) -> Iterator[int]:
        yield index
        if self._replace:
            others = np.random.default_rng((self.seed, epoch, index, 1)).permutation(len(self))
            yield from [int(other) for other in others if other != index][: TRIES - 1]

    def under_way(self, seconds: float = 0) -> list[Video]:
        """The videos that have been read for so many seconds or more, and are still."""
        videos: list[Video] = self.dataset.under_way(seconds)
        return videos

    def quiet(self) -> float:
        """Seconds since a video was last begun or ended."""
        seconds: float = self.dataset.quiet()
        return seconds


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
