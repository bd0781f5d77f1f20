"""Augmentation of clips: colours of RGB, and one affine warp of RGB and flow alike, on uint8.

An augmentation takes the cut of a clip and gives one that does more. All chance is in that one
call: every image of the clip and both modalities then change alike. Colours change by functions
that do not depend on the image, as one that follows each frame's own mean would flicker.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import cv2
import numpy as np
import numpy.typing as npt

from src.data.sources import Size, Uint8
from src.data.transforms import Cut
from src.errors import UserError

Matrix = npt.NDArray[np.float64]
Recolour = Callable[[Uint8], Uint8]
Augmentation = Callable[[Cut, np.random.Generator], Cut]

# Beyond the border after a warp: what normalisation takes to about zero, and no motion.
MEAN_COLOUR = (124, 116, 104)  # of ImageNet
ZERO_FLOW = 128
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class AugmentedCut:
    """A cut whose images are then recoloured and warped.

    Args:
        cut: what comes first.
        recolour: done to frames, one after the other; flow has no colour.
        warp: where a point (x, y, 1) from the middle of the image, in pixels, goes (3, 3); None
            leaves everything in place. Vectors of flow are turned, sheared or scaled along, as
            far as 0..255 reaches.
    """

    cut: Cut
    recolour: tuple[Recolour, ...] = ()
    warp: Matrix | None = None

    @property
    def size(self) -> Size:
        """Height and width of what comes out."""
        return self.cut.size

    def rgb(self, image: Uint8) -> Uint8:
        """Cut a frame (H, W, 3), then recolour and warp it."""
        image = self.cut.rgb(image)
        for recolour in self.recolour:
            image = recolour(image)
        return image if self.warp is None else self._warped(image, MEAN_COLOUR)

    def flow(self, u: Uint8, v: Uint8, out: Uint8 | None = None) -> Uint8:
        """Cut a quantised field, u and v (H, W), then warp it and its vectors; into `out`."""
        field = self.cut.flow(u, v, out)
        if self.warp is None:
            return field
        turned = [
            cv2.addWeighted(field[0], a, field[1], b, 127.5 * (1 - a - b))
            for a, b in self.warp[:2, :2]
        ]
        for component, image in zip(field, turned, strict=True):
            component[:] = self._warped(image, ZERO_FLOW)
        return field

    def flow_lengths(self, stored: Size) -> tuple[float, float]:
        """What v and u seen in the cut are multiplied by to be those that `flow` gives."""
        return self.cut.flow_lengths(stored)

    def _warped(self, image: Uint8, outside: int | tuple[int, ...]) -> Uint8:
        return cv2.warpAffine(image, self._warp_of_pixels, self.size[::-1], borderValue=outside)

    @cached_property
    def _warp_of_pixels(self) -> Matrix:
        """The warp from the first pixel instead of the middle (2, 3)."""
        assert self.warp is not None
        y, x = (np.array(self.size) - 1) / 2
        return (translation(x, y) @ self.warp @ translation(-x, -y))[:2]


def translation(x: float, y: float) -> Matrix:
    """A warp (3, 3) by x pixels to the right and y down."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def shear(x: float, y: float) -> Matrix:
    """A warp (3, 3) that moves a point by x times its height to the right, or y times down."""
    return np.array([[1, x, 0], [y, 1, 0], [0, 0, 1]], dtype=np.float64)


def rotation(degrees: float) -> Matrix:
    """A warp (3, 3) that turns clockwise."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def brightness(factor: float) -> Matrix:
    """Colours (r, g, b, 1) times a factor, as a matrix (4, 4)."""
    return np.diag([factor, factor, factor, 1.0])


def contrast(factor: float) -> Matrix:
    """Distance to mid-grey times a factor, as a matrix (4, 4)."""
    matrix = brightness(factor)
    matrix[:3, 3] = 127.5 * (1 - factor)
    return matrix


def saturation(factor: float) -> Matrix:
    """Distance to the grey of the same luma times a factor, as a matrix (4, 4)."""
    matrix = brightness(factor)
    matrix[:3, :3] += (1 - factor) * LUMA
    return matrix


def hue(turns: float) -> Matrix:
    """Colours turned around the grey axis at equal luma (in YIQ), red to green: matrix (4, 4)."""
    matrix, yiq = np.eye(4), np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    around_grey = np.eye(3)
    around_grey[1:, 1:] = rotation(-360 * turns)[:2, :2]
    matrix[:3, :3] = np.linalg.inv(yiq) @ around_grey @ yiq
    return matrix


def _by_matrix(matrix: Matrix) -> Recolour:
    return partial(cv2.transform, m=matrix[:3])


def _by_table(levels: npt.NDArray) -> Recolour:
    return partial(cv2.LUT, lut=levels.astype(np.uint8))


@dataclass(frozen=True)
class ColourJitter:
    """Random brightness, contrast, saturation and hue, the same for all frames of a clip.

    Args:
        brightness, contrast, saturation: 0.4 draws a factor from 0.6..1.4, and so on.
        hue: 0.1 draws a tenth of a turn at most, either way; up to 0.5.

    Raises:
        UserError: a negative strength, or a hue above 0.5.

    Source: torchvision's transform of this name, but contrast is around mid-grey.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                value = getattr(self, name)
                raise UserError(f"data.augment.{name}={value}: needs a number from 0 to {most}")

    def __call__(self, cut: Cut, rng: np.random.Generator) -> Cut:
        """Draw the colours of one clip."""
        strengths = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        b, c, s, h = rng.uniform(-strengths, strengths)
        matrix = hue(h) @ saturation(1 + s) @ contrast(1 + c) @ brightness(1 + b)
        return AugmentedCut(cut, (_by_matrix(matrix),))


def _sharpness(factor: float) -> Recolour:
    smooth = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = (1 - factor) * smooth
    kernel[1, 1] += factor
    return partial(cv2.filter2D, ddepth=-1, kernel=kernel)


def _posterize(strength: float) -> Recolour:
    drop = round(4 * abs(strength))  # bits
    return _by_table(np.arange(256) >> drop << drop)


def _solarize(strength: float) -> Recolour:
    levels = np.arange(256)
    return _by_table(np.where(levels >= 256 * (1 - abs(strength)), 255 - levels, levels))


# What each operation does at a strength from -1 to 1; 0 is nothing, 1 what its authors allow.
RECOLOURS: dict[str, Callable[[float], Recolour]] = {
    "brightness": lambda strength: _by_matrix(brightness(1 + 0.9 * strength)),
    "contrast": lambda strength: _by_matrix(contrast(1 + 0.9 * strength)),
    "saturation": lambda strength: _by_matrix(saturation(1 + 0.9 * strength)),
    "sharpness": lambda strength: _sharpness(1 + 0.9 * strength),
    "posterize": _posterize,
    "solarize": _solarize,
}
WARPS: dict[str, Callable[[float, Size], Matrix]] = {
    "shear_x": lambda strength, size: shear(0.3 * strength, 0),
    "shear_y": lambda strength, size: shear(0, 0.3 * strength),
    "translate_x": lambda strength, size: translation(0.45 * strength * size[1], 0),
    "translate_y": lambda strength, size: translation(0, 0.45 * strength * size[0]),
    "rotate": lambda strength, size: rotation(30 * strength),
}
OPERATIONS = ("identity", *RECOLOURS, *WARPS)


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` random operations at one magnitude, the same for all images of a clip.

    Warps change RGB and flow alike, together as one; the other operations are for RGB. Left out
    of the authors' are equalising and automatic contrast: they have no magnitude, and would change
    each frame in its own way.

    Args:
        num_ops: operations per clip, drawn with replacement.
        magnitude: from 0, no change, to 10; the sign is drawn.

    Raises:
        UserError: a negative number, or a magnitude above 10.

    Source: Cubuk et al. 2020; ranges of the operations from AutoAugment (Cubuk et al. 2019).
    """

    num_ops: int = 2
    magnitude: float = 9

    def __post_init__(self) -> None:
        if not isinstance(self.num_ops, int) or self.num_ops < 0:
            raise UserError(f"data.augment.num_ops={self.num_ops}: needs a whole number from 0")
        if not 0 <= self.magnitude <= 10:
            raise UserError(f"data.augment.magnitude={self.magnitude}: needs a number from 0 to 10")

    def __call__(self, cut: Cut, rng: np.random.Generator) -> Cut:
        """Draw the operations of one clip."""
        recolour: list[Recolour] = []
        warp: Matrix | None = None
        strengths = rng.choice([-1.0, 1.0], size=self.num_ops) * self.magnitude / 10
        for number, strength in zip(
            rng.integers(len(OPERATIONS), size=self.num_ops), strengths.tolist(), strict=True
        ):
            name = OPERATIONS[number]
            if name in RECOLOURS:
                recolour.append(RECOLOURS[name](strength))
            elif name in WARPS:
                step = WARPS[name](strength, cut.size)
                warp = step if warp is None else step @ warp
        return AugmentedCut(cut, tuple(recolour), warp)
