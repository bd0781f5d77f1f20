"""One crop, one flip and one change of colors for all frames of a clip, on uint8.

A crop is chosen in the coordinates of the frame at its training size (smaller side `short_side`)
and kept as fractions, so that it cuts the same region out of RGB and flow images whatever size
they are stored at. Cutting comes before resizing, and each image is resized once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from src.media.sources import Size, Uint8, resize
from src.utils.errors import UserError


@dataclass(frozen=True)
class Box:
    """A region of a frame in fractions of its height and width."""

    top: float
    left: float
    height: float
    width: float


WHOLE_FRAME = Box(0.0, 0.0, 1.0, 1.0)
CropPolicy = Callable[[Size, np.random.Generator], Box]
ColorTransform = Callable[[Tensor], Tensor]  # one of torchvision.transforms.v2


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
    """The motion stream's crop: sides from a list, at one of the four corners or the center."""

    sides: tuple[int, ...]

    def __call__(self, frame: Size, rng: np.random.Generator) -> Box:
        """Draw a crop of a frame (height, width)."""
        sides = np.minimum(rng.choice(self.sides, size=2), frame)
        free = np.asarray(frame) - sides
        places = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0.5, 0.5]])
        return _fractions(places[rng.integers(len(places))] * free, sides, frame)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Inception's crop: a random part of the frame's area at a random aspect, anywhere in it.

    Args:
        area: smallest and largest part of the frame's area.
        aspect: smallest and largest width / height; its logarithm is uniform.

    Source: Szegedy et al. 2015, as torchvision's transform of this name.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, (low, high), most in (("area", self.area, 1), ("aspect", self.aspect, np.inf)):
            if not 0 < low <= high <= most:
                limits = "0 < smallest <= largest" + (" <= 1" if most == 1 else "")
                raise UserError(f"data.crop.{name}=[{low}, {high}]: needs {limits}")

    def __call__(self, frame: Size, rng: np.random.Generator) -> Box:
        """Draw a crop of a frame (height, width): the first of ten that fits, or one made to."""
        area = frame[0] * frame[1] * rng.uniform(*self.area, size=10)
        low, high = np.log(self.aspect)
        aspect = np.exp(rng.uniform(low, high, size=10))
        sides = np.sqrt(np.stack([area / aspect, area * aspect], axis=1))  # (10, 2)
        fits = (sides <= np.asarray(frame)).all(axis=1)
        chosen = np.minimum(sides[fits.argmax()], frame)
        return _fractions(rng.random(2) * (np.asarray(frame) - chosen), chosen, frame)


@dataclass(frozen=True)
class CenterCrop:
    """The middle `size` x `size` of the frame, limited to the frame."""

    size: int

    def __call__(self, frame: Size, rng: np.random.Generator) -> Box:
        """Crop a frame (height, width); nothing is drawn."""
        sides = np.minimum(self.size, np.asarray(frame))
        return _fractions((np.asarray(frame) - sides) / 2, sides, frame)


def _fractions(offset: np.ndarray, sides: np.ndarray, frame: Size) -> Box:
    (top, left), (height, width) = offset / np.asarray(frame), sides / np.asarray(frame)
    return Box(float(top), float(left), float(height), float(width))


@dataclass(frozen=True)
class CropResizeFlip:
    """One cut for a full clip: the box to cut out, the size to give it, and whether to mirror.

    Flow stays in pixels of the stored images, as in the papers.
    """

    box: Box
    size: Size
    hflip: bool = False

    def flow(self, u: Uint8, v: Uint8, out: Uint8 | None = None) -> Uint8:
        """Cut a quantized field, u and v (H, W), into `out` (2, *size) or a new array."""
        field = np.empty((2, *self.size), dtype=np.uint8) if out is None else out
        self.cut(u, field[0])
        self.cut(v, field[1])
        if self.hflip:  # to the left is to the right in a mirror: 255 - u
            cv2.bitwise_not(field[0], dst=field[0])
        return field

    def cut(self, image: Uint8, out: Uint8 | None = None) -> Uint8:
        """Cut an image (H, W) or (H, W, C) into `out`: crop, resize once, mirror."""
        height, width = image.shape[:2]
        top, left = round(self.box.top * height), round(self.box.left * width)
        bottom = max(round((self.box.top + self.box.height) * height), top + 1)
        right = max(round((self.box.left + self.box.width) * width), left + 1)
        cut = resize(image[top:bottom, left:right], self.size, out)
        return cv2.flip(cut, 1, dst=out) if self.hflip else cut

    def flow_lengths(self, stored: Size) -> tuple[float, float]:
        """What v and u seen in the cut are multiplied by to be those of flow stored at a size."""
        height, width = stored
        return self.box.height * height / self.size[0], self.box.width * width / self.size[1]


def rgb_clip(frames: Iterable[Uint8], count: int, geometry: CropResizeFlip) -> Tensor:
    """Cut `count` frames (H, W, 3) into a clip (3, count, *size), one frame at a time."""
    clip = np.empty((3, count, *geometry.size), dtype=np.uint8)
    for t, frame in enumerate(frames):
        image = geometry.cut(frame)
        cv2.mixChannels([image], [clip[channel, t] for channel in range(3)], [0, 0, 1, 1, 2, 2])
    return torch.from_numpy(clip)


def flow_clip(
    fields: Iterable[tuple[Uint8, Uint8]],
    places: Sequence[Sequence[tuple[int, int]]],
    shape: tuple[int, int],
    geometry: CropResizeFlip,
) -> Tensor:
    """Cut fields u, v (H, W) into a clip of flow stacks, one field at a time.

    Args:
        fields: each field once.
        places: of each field, its places (frame, position in the stack): stacks may overlap.
        shape: T and L.
        geometry: how each field is cut.

    Returns:
        A tensor (2L, T, *size), channels u1, v1, u2, v2, ...
    """
    frames, stack = shape
    clip = np.empty((stack, 2, frames, *geometry.size), dtype=np.uint8)
    for (u, v), ((t, position), *others) in zip(fields, places, strict=True):
        field = geometry.flow(u, v, clip[position, :, t])
        for t, position in others:
            clip[position, :, t] = field
    return torch.from_numpy(clip).flatten(0, 1)  # (2L, T, H, W)


def hflip(modality: str, clip: Tensor) -> Tensor:
    """Mirror uint8 "rgb" or "flow" (..., C, T, H, W); of flow also the sign of u, as 255 - u."""
    mirrored = clip.flip(-1)
    if modality == "flow":
        mirrored[..., 0::2, :, :, :].bitwise_not_()
    return mirrored


def check_colors(transform: ColorTransform) -> None:
    """Refuse a transform of torchvision that would do more than change colors.

    Flow would not follow what moves pixels, and batches are of uint8 clips of one size.

    Raises:
        UserError: names the transform, or what it makes of a clip.
    """
    for kind in map(type, _parts(transform)):
        if kind.__module__.endswith(("._geometry", "._auto_augment")):
            raise UserError(
                f"data.augment={kind.__name__}: moves pixels, which flow would not follow: give a "
                "transform of colors, such as torchvision.transforms.v2.ColorJitter"
            )
    clip = torch.zeros((3, 2, 16, 16), dtype=torch.uint8)
    changed = augment_colors(clip, transform, np.random.default_rng(0))
    if changed.shape != clip.shape or changed.dtype != clip.dtype:
        raise UserError(
            f"data.augment: makes {changed.dtype} {tuple(changed.shape)} of a clip of uint8 "
            f"{tuple(clip.shape)}: give a transform that changes colors alone"
        )


def _parts(transform: ColorTransform) -> Iterator[object]:
    """A transform, and those that it is composed of."""
    yield transform
    for part in getattr(transform, "transforms", ()):
        yield from _parts(part)


def augment_colors(clip: Tensor, transform: ColorTransform, rng: np.random.Generator) -> Tensor:
    """Change the colors of a uint8 clip (3, T, H, W) by one draw, the same for all of its frames.

    The transform is one of torchvision's, of images (T, 3, H, W).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        return transform(clip.transpose(0, 1)).transpose(0, 1)
