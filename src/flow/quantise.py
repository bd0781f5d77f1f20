"""Optical flow as 8-bit images, the way the released TV-L1 flow is stored."""

from typing import Any

import numpy as np
import numpy.typing as npt


def levels(flow: Any, bound: float) -> Any:
    """The levels of `quantise` as whole numbers in floating point; of an array or a tensor."""
    return ((flow.clip(-bound, bound) + bound) * (255.0 / (2.0 * bound))).round()


def quantise(flow: npt.NDArray[np.float32], bound: float = 20.0) -> npt.NDArray[np.uint8]:
    """Clip flow in pixels per frame to [-bound, bound] and store it as round(255 (v+b) / 2b)."""
    return levels(flow, bound).astype(np.uint8)


def dequantise(image: npt.NDArray[np.uint8], bound: float = 20.0) -> npt.NDArray[np.float32]:
    """Invert `quantise` to within half a step, bound / 255 pixels."""
    return image.astype(np.float32) * np.float32(2.0 * bound / 255.0) - np.float32(bound)
