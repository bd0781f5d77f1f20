"""Which frames make a clip: runs or segments for training, evenly spaced frames for evaluation.

A frame t is valid when its complete flow stack exists: the `stack` flow fields t - stack/2 ..
t + stack/2 - 1 around it. Samplers of clips choose among the valid frames of a video.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from src.utils.errors import UserError

Indices = npt.NDArray[np.int64]
Stride = tuple[int, int]  # smallest and largest tau


def valid_range(num_frames: int, num_fields: int, stack: int) -> tuple[int, int]:
    """First and last frame with a complete flow stack around it.

    A video too short to have one gives its middle frame: `stack_indices` then repeats border
    fields.

    Args:
        num_frames: RGB frames, or the number that the flow implies.
        num_fields: flow fields, normally num_frames - 1.
        stack: flow fields around a frame (the papers' L), even.
    """
    half = stack // 2
    first, last = half, min(num_fields - half, num_frames - 1)
    if first > last:
        return (num_frames - 1) // 2, (num_frames - 1) // 2
    return first, last


def evenly_spaced(first: int, last: int, count: int) -> Indices:
    """`count` frames evenly spaced over first..last, both included; repeats if there are fewer."""
    if count == 1:
        return np.array([(first + last) // 2])
    return np.rint(np.linspace(first, last, count)).astype(np.int64)


# By (first, last, count, stride, rng) the `count` frames of a clip, ascending, out of the valid
# range first..last. `stride` is the data's range of tau, for samplers that have none of their own;
# without `rng` nothing is drawn: the clip for validation.
ClipSampler = Callable[[int, int, int, Stride, np.random.Generator | None], Indices]


@dataclass(frozen=True)
class StridedSampler:
    """A run at the data's stride, the papers' clip (Feichtenhofer et al. 2016); the default.

    The run is of consecutive points of the grid first : tau : last, with tau uniform in the stride;
    a grid of fewer points gives evenly spaced frames. Source: ST-ResNet's released implementation,
    but for the start of a run, which never was the first grid point there.
    """

    def __call__(
        self, first: int, last: int, count: int, stride: Stride, rng: np.random.Generator | None
    ) -> Indices:
        """A random run, or the one in the middle of the video at the mean stride."""
        if rng is None:
            reach = min(sum(stride) / 2 * (count - 1), last - first) / 2
            middle = (first + last) / 2
            return np.rint(np.linspace(middle - reach, middle + reach, count)).astype(np.int64)
        if count == 1:
            return rng.integers(first, last, size=1, endpoint=True)
        tau = int(rng.integers(stride[0], stride[1], endpoint=True))
        grid = np.arange(first, last + 1, tau)
        if len(grid) < count:
            return evenly_spaced(first, last, count)
        start = int(rng.integers(0, len(grid) - count, endpoint=True))
        return grid[start : start + count]


STRIDED_SAMPLER = StridedSampler()


@dataclass(frozen=True)
class Segments:
    """One frame of each of `count` equal segments of the video (TSN, Wang et al. 2016)."""

    def __call__(
        self, first: int, last: int, count: int, stride: Stride, rng: np.random.Generator | None
    ) -> Indices:
        """A random frame of each segment, or its middle one; the stride plays no part."""
        place = np.full(count, 0.5) if rng is None else rng.random(count)
        # A segment may begin within a frame: so do those of videos with fewer frames than `count`.
        frames = first + ((np.arange(count) + place) * (last - first + 1) / count).astype(np.int64)
        return np.minimum(frames, last)  # rounding may reach the end of the last segment


@dataclass(frozen=True)
class Dense:
    """Frames `stride` apart from any start (I3D, Carreira and Zisserman 2017; SlowFast).

    A video too short for that gives evenly spaced frames.
    """

    stride: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.stride, int) or self.stride < 1:
            raise UserError(f"data.sampler.stride={self.stride}: needs an integer from 1")

    def __call__(
        self, first: int, last: int, count: int, stride: Stride, rng: np.random.Generator | None
    ) -> Indices:
        """A clip with a random start, or the central one; its own stride counts."""
        latest = last - self.stride * (count - 1)
        if latest < first:
            return evenly_spaced(first, last, count)
        start = (first + latest) // 2 if rng is None else rng.integers(first, latest, endpoint=True)
        return start + self.stride * np.arange(count)


def stack_indices(frames: Indices, stack: int, num_fields: int) -> dict[int, list[tuple[int, int]]]:
    """The flow fields around the frames, ascending, each with its places (frame, position) in them.

    Field t - stack/2 comes first in the stack of frame t. Outside the video the border is repeated.
    """
    around = frames[:, None] + np.arange(-(stack // 2), stack - stack // 2)[None, :]  # (T, L)
    places: dict[int, list[tuple[int, int]]] = {}
    for t, row in enumerate(np.clip(around, 0, num_fields - 1).tolist()):
        for position, field in enumerate(row):
            places.setdefault(field, []).append((t, position))
    return dict(sorted(places.items()))
