"""Windows that slide over frames as they come, without keeping more than one window of them."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from src.media.sources import FlowSource, Size, Uint8, in_order


class Timed(Protocol):
    """Anything with the time stamps of a frame, in seconds."""

    @property
    def time(self) -> float:
        """When it is first shown."""
        ...

    @property
    def duration(self) -> float:
        """How long it is shown."""
        ...


Frame = TypeVar("Frame", bound=Timed)


@dataclass(frozen=True)
class Window(Generic[Frame]):
    """A part of a video: the frames shown first in start..end, in seconds of its time stamps."""

    start: float
    end: float
    frames: Sequence[Frame]


def sliding_windows(frames: Iterable[Frame], length: float, step: float) -> Iterator[Window[Frame]]:
    """Windows of `length` seconds, one every `step` seconds, each as soon as it is complete.

    The last one ends with the video, and is shorter only if the video is. Times at which no new
    frame comes have no window; one in which a single frame comes has that before it, too, because
    there is no motion in one frame.

    Args:
        frames: with ascending times, however far apart.
        length: of a window in seconds.
        step: from a window's start to the next one's.
    """
    held: deque[Frame] = deque()
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    begin, number, covered = first.time, 0, first.time
    held.append(first)
    for frame in frames:
        while frame.time >= (end := _start(begin, number, step, length)):
            start = _start(begin, number, step)
            if held[-1].time >= start:
                yield Window(start, end, _within(held, start))
                number, covered = number + 1, end
            else:  # past all windows that hold nothing, at once
                number = max(number + 1, math.floor((frame.time - length - begin) / step) + 1)
        needed = min(_start(begin, number, step), frame.time - length)
        while len(held) > 2 and held[0].time < needed:
            held.popleft()
        held.append(frame)
    last = held[-1]
    if last.time >= max(covered, _start(begin, number, step)):
        end = round(last.time + last.duration, 6)
        start = max(begin, round(end - length, 6))
        yield Window(start, end, _within(held, start))


def _start(begin: float, number: int, step: float, length: float = 0.0) -> float:
    return round(begin + number * step + length, 6)  # as exact as the frames' times


def _within(held: Iterable[Frame], start: float) -> list[Frame]:
    every = list(held)
    within = [frame for frame in every if frame.time >= start]
    return within if len(within) > 1 else every[-2:]


class HeldFrames:
    """Frames in memory as the frames of one video."""

    def __init__(self, images: Sequence[Uint8]) -> None:
        self.images, self.num_frames = images, len(images)

    @property
    def size(self) -> Size:
        """Height and width of a frame."""
        height, width = self.images[0].shape[:2]
        return height, width

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """The frames `indices`, each (H, W, 3)."""
        return (self.images[index] for index in indices)


class RememberedFlow:
    """Flow of a part of a video; what other parts have computed already is not computed again.

    Args:
        flow: of this part.
        first: place of its first field in the full video.
        memory: fields u, v by their place in the full video; what is computed is added.
    """

    def __init__(
        self, flow: FlowSource, first: int, memory: dict[int, tuple[Uint8, Uint8]]
    ) -> None:
        self._flow, self._first, self._memory = flow, first, memory
        self.num_fields = flow.num_fields

    @property
    def size(self) -> Size:
        """Height and width of a field."""
        return self._flow.size

    def flow(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        """The fields `indices` (from 0, any order, repeats allowed), quantized u, v (H, W)."""
        return in_order(indices, self._ascending)

    def _ascending(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        missing = [i for i in indices if self._first + i not in self._memory]
        computed = self._flow.flow(missing) if missing else iter(())
        for index in indices:
            place = self._first + index
            if place not in self._memory:
                self._memory[place] = next(computed)
            yield self._memory[place]


POINTS = 2000  # of a curve, more than a picture has columns
Curves = npt.NDArray[np.float32]


class Timeline:
    """Probabilities over time, thinned out when they become many: memory has an end."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._values: list[Curves] = []
        self._pending: list[tuple[float, Curves]] = []
        self._every = 1  # windows per point

    def add(self, time: float, probabilities: Curves) -> None:
        """Add a window: its middle in seconds, and the probabilities (K,)."""
        self._pending.append((time, probabilities))
        if len(self._pending) == self._every:
            self._flush()
        if len(self._times) >= 2 * POINTS:
            self._times = [sum(pair) / 2 for pair in _pairs(self._times)]
            self._values = [np.mean(pair, axis=0) for pair in _pairs(self._values)]
            self._every *= 2

    def points(self) -> tuple[list[float], Curves]:
        """Times (N,) and probabilities (N, K)."""
        if self._pending:
            self._flush()
        return self._times, np.array(self._values, dtype=np.float32)

    def _flush(self) -> None:
        times, values = zip(*self._pending, strict=True)
        self._times.append(sum(times) / len(times))
        self._values.append(np.mean(values, axis=0))
        self._pending = []


def _pairs(values: Sequence) -> list[tuple]:
    return list(zip(values[::2], values[1::2], strict=True))
