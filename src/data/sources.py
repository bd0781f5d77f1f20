"""Random access to a video's RGB frames and to its flow fields, as uint8 images.

Two small interfaces, so that any mix works: frames from a video file with flow from an archive of
JPEG images, or with flow computed on the spot. Images come one at a time: what is cut out of one
and stored elsewhere never has to wait in memory for the rest of the clip.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Uint8 = npt.NDArray[np.uint8]
Size = tuple[int, int]  # height, width
Image = TypeVar("Image")


class RGBSource(Protocol):
    """Frames of one video."""

    num_frames: int
    fps: float

    @property
    def size(self) -> Size:
        """Height and width of a frame."""
        ...

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """Read the frames `indices` (from 0, any order, repeats allowed), each (H, W, 3)."""
        ...


class FlowSource(Protocol):
    """Flow fields of one video; field i goes from frame i to frame i + 1."""

    num_fields: int

    @property
    def size(self) -> Size:
        """Height and width of a field."""
        ...

    def flow(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        """Read the fields `indices` (from 0, any order, repeats allowed), quantised u, v (H, W)."""
        ...


def in_order(
    indices: Sequence[int], ascending: Callable[[Sequence[int]], Iterator[Image]]
) -> Iterator[Image]:
    """Serve indices in any order from a function that takes ascending ones."""
    distinct = sorted(set(indices))
    if not distinct:
        return
    if list(indices) == distinct:  # the common case: nothing has to be kept
        yield from ascending(distinct)
    else:
        images = dict(zip(distinct, ascending(distinct), strict=True))
        yield from (images[index] for index in indices)
