"""One crop and one flip for all frames of a clip and for both modalities, on uint8.

A crop is chosen in the coordinates of the frame at its training size (smaller side `short_side`)
and kept as fractions, so that it cuts the same region out of RGB and flow images whatever size
they are stored at. Cutting comes before resizing, and each image is resized once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from src.data.sources import Uint8

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Box:
    """A region of a frame in fractions of its height and width."""

    top: float
    left: float
    height: float
    width: float


WHOLE_FRAME = Box(0.0, 0.0, 1.0, 1.0)
CropPolicy = Callable[[Size, np.random.Generator], Box]


def size_at(size: Size, short_side: int) -> Size:
    """The size (height, width) scaled so that its smaller side is `short_side`."""
    scale = short_side / min(size)
    return round(size[0] * scale), round(size[1] * scale)


@dataclass(frozen=True)
class CornerJitterCrop:
    """The joint training's crop, the default (ST-ResNet's released implementation).

    Height and width are drawn apart, each `size` times uniform(1 - jitter, 1 + jitter), limited to
    the frame; the crop lies in the outer quarter of the free border: near corners, never central.
    """

    size: int
    jitter: float = 0.25

    def __call__(self, frame: Size, rng: np.random.Generator) -> Box:
        """Draw a crop of a frame (height, width)."""
        sides = self.size * rng.uniform(1 - self.jitter, 1 + self.jitter, size=2)
        sides = np.minimum(sides, frame)
        free = np.asarray(frame) - sides
        offset = rng.uniform(0, 0.25, size=2) * free
        offset = np.where(rng.random(2) < 0.5, offset, free - offset)
        return _fractions(offset, sides, frame)


@dataclass(frozen=True)
class MultiScaleCrop:
    """The motion stream's crop: sides from a list, at one of the four corners or the centre."""

    sides: tuple[int, ...]

    def __call__(self, frame: Size, rng: np.random.Generator) -> Box:
        """Draw a crop of a frame (height, width)."""
        sides = np.minimum(rng.choice(self.sides, size=2), frame)
        free = np.asarray(frame) - sides
        places = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0.5, 0.5]])
        return _fractions(places[rng.integers(len(places))] * free, sides, frame)


@dataclass(frozen=True)
class CentreCrop:
    """The middle `size` x `size` of the frame, limited to the frame."""

    size: int

    def __call__(self, frame: Size, rng: np.random.Generator) -> Box:
        """Crop a frame (height, width); nothing is drawn."""
        sides = np.minimum(self.size, np.asarray(frame))
        return _fractions((np.asarray(frame) - sides) / 2, sides, frame)


def _fractions(offset: np.ndarray, sides: np.ndarray, frame: Size) -> Box:
    (top, left), (height, width) = offset / np.asarray(frame), sides / np.asarray(frame)
    return Box(float(top), float(left), float(height), float(width))


def crop_and_resize(images: Uint8, box: Box, size: Size) -> Uint8:
    """Cut the same box out of each of the images (N, H, W, C) and resize it to (N, *size, C)."""
    height, width = images.shape[1:3]
    top, left = round(box.top * height), round(box.left * width)
    bottom = max(round((box.top + box.height) * height), top + 1)
    right = max(round((box.left + box.width) * width), left + 1)
    cut = images[:, top:bottom, left:right]
    return np.stack([resize(image, size) for image in cut])


def resize(image: Uint8, size: Size) -> Uint8:
    """Resize an image (H, W, C); area averaging when both sides shrink, else bilinear."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=interpolation), dtype=np.uint8)


def rgb_to_tensor(frames: Uint8) -> Tensor:
    """Frames (T, H, W, 3) as a tensor (3, T, H, W)."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous()


def flow_to_tensor(fields: Uint8, stack: int) -> Tensor:
    """Fields (T * stack, H, W, 2) as a tensor (2 * stack, T, H, W), channels u1, v1, u2, v2, ..."""
    frames = torch.from_numpy(fields).unflatten(0, (-1, stack))  # (T, L, H, W, 2)
    return frames.permute(1, 4, 0, 2, 3).flatten(0, 1).contiguous()  # (2L, T, H, W)


def mirror_rgb(rgb: Tensor) -> Tensor:
    """Mirror frames (..., W) left to right."""
    return rgb.flip(-1)


def mirror_flow(flow: Tensor) -> Tensor:
    """Mirror quantised flow (..., 2L, T, H, W): positions, and the sign of u (255 - u in uint8)."""
    mirrored = flow.flip(-1)
    u = mirrored[..., 0::2, :, :, :]
    u.copy_(255 - u)
    return mirrored
