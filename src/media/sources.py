"""Random access to a video's RGB frames and to its flow fields, as uint8 images; their resizing.

Two small interfaces, so that any mix works: frames from a video file with flow from an archive of
JPEG images, or with flow computed on the spot. Images come one at a time: what is cut out of one
and stored elsewhere never has to wait in memory for the rest of the clip.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from src.utils.errors import UserError

Uint8 = npt.NDArray[np.uint8]
Size = tuple[int, int]  # height, width
Image = TypeVar("Image")
LONGEST_SIDE = 4096  # pixels of the smaller side that anything is resized to
LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"  # the variable of the environment, see `most_pixels`
# Beyond this factor interpolation would miss pixels between those it looks at.
_AVERAGE_FROM = 1.5


class RGBSource(Protocol):
    """Frames of one video."""

    num_frames: int

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """Read the frames `indices` (from 0, any order, repeats allowed), each (H, W, 3)."""


class FlowSource(Protocol):
    """Flow fields of one video; field i goes from frame i to frame i + 1."""

    num_fields: int

    def flow(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        """Read the fields `indices` (from 0, any order, repeats allowed), quantized u, v (H, W)."""


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


def most_pixels() -> int:
    """Pixels of the largest image that is decoded or made, OpenCV's own limit: see `src`."""
    return int(os.environ[LIMIT])


def size_at(size: Size, short_side: int) -> Size:
    """The size (height, width) scaled so that its smaller side is `short_side`.

    Raises:
        UserError: it would be too large: the image is a line.
    """
    scale = short_side / min(size)
    scaled = round(size[0] * scale), round(size[1] * scale)
    if scaled[0] * scaled[1] > most_pixels():
        raise UserError(
            f"frames of {size[1]}x{size[0]} pixels cannot be resized to a smaller side of "
            f"{short_side}: {LIMIT}={most_pixels()} is the most"
        )
    return scaled


def resize(image: Uint8, size: Size, out: Uint8 | None = None) -> Uint8:
    """Resize an image (H, W) or (H, W, C): bilinear, or area averaging when much smaller.

    With `out` the result is written there, else an image that has the size is returned itself.
    """
    if image.shape[:2] == size:
        if out is not None:
            np.copyto(out, image)
        return image if out is None else out
    height, width = image.shape[:2]
    shrinks = height >= _AVERAGE_FROM * size[0] and width >= _AVERAGE_FROM * size[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], dst=out, interpolation=interpolation)
