"""Windows that slide over frames as they come, without keeping more than one window of them."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from src.media.sources import FlowSource, Uint8, in_order


@dataclass(frozen=True)
class HeldFrame:
    """What is kept of a frame until its windows are over: images as small as is enough."""

    index: int
    time: float  # seconds, when it is first shown
    duration: float
    seen: Uint8  # at the size that the network sees
    moving: Uint8  # at the size that flow is computed at; the same image if that is the same


Memory = dict[int, tuple[Uint8, Uint8]]  # flow fields u, v by their place in the video
POINTS = 2000  # of a curve, more than a picture has columns
Curves = npt.NDArray[np.float32]
Point = tuple[float, Curves]  # seconds, and probabilities (K,)


@dataclass(frozen=True)
class Window:
    """A part of a video: the frames shown first in start..end, in seconds of its time stamps."""

    start: float
    end: float
    frames: Sequence[HeldFrame]


def sliding_windows(frames: Iterable[HeldFrame], length: float, step: float) -> Iterator[Window]:
    """Windows of `length` seconds, one every `step` seconds, each as soon as it is complete.

    The last one ends with the video, and is shorter only if the video is. Times at which no new
    frame comes have no window; one in which a single frame comes has that before it, too, because
    there is no motion in one frame. The frames' times ascend, however far apart.
    """
    frames = iter(frames)
    held = deque(itertools.islice(frames, 1))
    if not held:
        return
    begin, number, covered = held[0].time, 0, held[0].time
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


def _within(held: Iterable[HeldFrame], start: float) -> list[HeldFrame]:
    every = list(held)
    within = [frame for frame in every if frame.time >= start]
    return within if len(within) > 1 else every[-2:]


class HeldFrames:
    """Frames in memory as the frames of one video."""

    def __init__(self, images: Sequence[Uint8]) -> None:
        self.images, self.num_frames = images, len(images)

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """The frames `indices`, each (H, W, 3)."""
        return (self.images[index] for index in indices)


class RememberedFlow:
    """Flow of a part of a video; what other parts have computed already is not computed again.

    The part's first field is the `first` of the full video; what is computed is added to `memory`.
    """

    def __init__(self, flow: FlowSource, first: int, memory: Memory) -> None:
        self._flow, self._first, self._memory = flow, first, memory
        self.num_fields = flow.num_fields

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


class Timeline:
    """Probabilities over time, thinned out when they become many: memory has an end."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._pending: list[Point] = []
        self._every = 1  # windows per point

    def add(self, time: float, probabilities: Curves) -> None:
        """Add a window: its middle in seconds, and the probabilities (K,)."""
        self._pending.append((time, probabilities))
        if len(self._pending) == self._every:
            self._points.append(_mean(self._pending))
            self._pending = []
        if len(self._points) >= 2 * POINTS:
            self._points = [_mean(self._points[i : i + 2]) for i in range(0, 2 * POINTS, 2)]
            self._every *= 2

    def points(self) -> tuple[list[float], Curves]:
        """Times (N,) and probabilities (N, K)."""
        points = [*self._points, *([_mean(self._pending)] if self._pending else [])]
        return [time for time, _ in points], np.array([values for _, values in points], np.float32)


def _mean(points: Sequence[Point]) -> Point:
    times, values = zip(*points, strict=True)
    return sum(times) / len(times), np.mean(values, axis=0)
