"""Sizes of images, and the one way in which images are resized."""

import cv2
import numpy as np

from src.data.sources import Size, Uint8

# Beyond this factor interpolation would miss pixels between those it looks at.
_AVERAGE_FROM = 1.5


def size_at(size: Size, short_side: int) -> Size:
    """The size (height, width) scaled so that its smaller side is `short_side`."""
    scale = short_side / min(size)
    return round(size[0] * scale), round(size[1] * scale)


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
