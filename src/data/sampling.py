"""Which frames make a clip: strided runs for training, evenly spaced frames for evaluation.

Source: ST-ResNet's released implementation, but for its start of a run, which never was the first
grid point. A frame t is valid when its whole flow stack exists: the `stack` flow fields
t - stack/2 .. t + stack/2 - 1 around it.
"""

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def valid_range(num_frames: int, num_fields: int | None, stack: int) -> tuple[int, int]:
    """First and last frame with a whole flow stack around it.

    A video too short to have one gives its middle frame: `stack_indices` then repeats border
    fields.

    Args:
        num_frames: RGB frames, or the number that the flow implies.
        num_fields: flow fields, normally num_frames - 1; None if no flow is read.
        stack: flow fields around a frame (the papers' L), even.
    """
    half = stack // 2
    if num_fields is None:  # the room for flow is left all the same, so that streams see one range
        num_fields = num_frames - 1
    first, last = half, min(num_fields - half, num_frames - 1)
    if first > last:
        return (num_frames - 1) // 2, (num_frames - 1) // 2
    return first, last


def evenly_spaced(first: int, last: int, count: int) -> Indices:
    """`count` frames evenly spaced over first..last, both included; repeats if there are fewer."""
    if count == 1:
        return np.array([(first + last) // 2])
    return np.rint(np.linspace(first, last, count)).astype(np.int64)


def training_clip(
    first: int, last: int, count: int, stride: tuple[int, int], rng: np.random.Generator
) -> Indices:
    """A random run of `count` consecutive points of the grid first : tau : last.

    tau is uniform in stride[0]..stride[1]. A grid of fewer points gives evenly spaced frames.
    A single frame (count 1) is uniform over first..last.
    """
    if count == 1:
        return rng.integers(first, last, size=1, endpoint=True)
    tau = int(rng.integers(stride[0], stride[1], endpoint=True))
    grid = np.arange(first, last + 1, tau)
    if len(grid) < count:
        return evenly_spaced(first, last, count)
    start = int(rng.integers(0, len(grid) - count, endpoint=True))
    return grid[start : start + count]


def central_clip(first: int, last: int, count: int, stride: tuple[int, int]) -> Indices:
    """`count` frames around the middle, at the mean stride or as far apart as there is room."""
    tau = sum(stride) / 2
    reach = min(tau * (count - 1), last - first) / 2
    middle = (first + last) / 2
    return np.rint(np.linspace(middle - reach, middle + reach, count)).astype(np.int64)


def stack_places(frames: Indices, stack: int, num_fields: int) -> dict[int, list[tuple[int, int]]]:
    """The flow fields around the frames, ascending, each with its places (frame, position) in them.

    Field t - stack/2 comes first in the stack of frame t. Outside the video the border is repeated.
    """
    around = frames[:, None] + np.arange(-(stack // 2), stack - stack // 2)[None, :]  # (T, L)
    places: dict[int, list[tuple[int, int]]] = {}
    for t, row in enumerate(np.clip(around, 0, num_fields - 1).tolist()):
        for position, field in enumerate(row):
            places.setdefault(field, []).append((t, position))
    return dict(sorted(places.items()))
