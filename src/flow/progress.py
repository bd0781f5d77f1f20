"""How far an extraction is: frames per second and the time left, within long videos, too."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.sharedctypes import RawArray
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

ALMOST = 0.999  # all frames are done, but not all videos are in their place
Item = TypeVar("Item")
log = logging.getLogger(__name__)


class Tally:
    """What one worker has done, in memory that its parent reads; a single writer needs no lock."""

    def __init__(self) -> None:
        self._shared = RawArray("Q", 3)

    def __getstate__(self) -> Any:
        return self._shared  # the memory itself, while processes start

    def __setstate__(self, shared: Any) -> None:
        self._shared = shared

    def read(self) -> tuple[int, int, int]:
        """Bytes of the videos opened, frames that are in them, frames done."""
        opened, expected, done = self._shared
        return opened, expected, done

    def open(self, size: int) -> None:
        """Begin a video of `size` bytes."""
        self._shared[0] += size

    def count(self, fields: Iterable[Item], frames: int) -> Iterator[Item]:
        """Count the fields of a video of `frames` frames as they pass."""
        begin = self._shared[2]
        self._shared[1] += frames
        for number, field in enumerate(fields, start=1):
            yield field
            self._shared[2] = begin + number
        self._shared[2] = begin + frames

    def close(self) -> None:
        """Expect no more of the video, even if it broke off."""
        self._shared[1] = self._shared[2]


class Display:
    """A bar on a terminal; elsewhere a line of log at every tenth.

    Args:
        videos: how many there are to do.
        size: bytes of all of them.
        tallies: the workers'.
    """

    def __init__(self, videos: int, size: int, tallies: Sequence[Tally]) -> None:
        self.videos, self.size, self.tallies = videos, size, tallies
        self.done = self.failed = 0
        console = Console(stderr=True)
        self._logs, self._tenths = not console.is_terminal, 0
        self._bar = Progress(
            BarColumn(), TextColumn("{task.description}"), console=console, disable=self._logs
        )
        self._task = self._bar.add_task(f"0/{videos} videos", total=1.0)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def frames(self) -> tuple[int, int]:
        """Frames done, and an estimate of all: as many per byte as in the videos opened so far."""
        each = [tally.read() for tally in self.tallies]
        opened, expected, done = (sum(column) for column in zip(*each, strict=True))
        return done, max(expected, round(expected * self.size / opened)) if opened else 0

    def show(self) -> None:
        """Show where the workers are now."""
        seconds = time.monotonic() - self._start
        frames, total = self.frames()
        text = f"{self.done}/{self.videos} videos, {frames / seconds:.1f} frames/s"
        part = frames / total if total else self.done / self.videos
        part = 1.0 if self.done == self.videos else min(part, ALMOST)
        if part:
            text += f", {timedelta(seconds=round(seconds / part - seconds))} left"
        if self.failed:
            text += f", {self.failed} failed"
        self._bar.update(self._task, completed=part, description=text)
        if self._logs and int(10 * part) > self._tenths:
            self._tenths = int(10 * part)
            log.info(text)
