"""Flow as colours: the hue tells where to, white is rest."""

import cv2
import numpy as np
import numpy.typing as npt

from src.data.sources import Uint8

REST = 2 / 127.5  # as a share of the bound


def colour_wheel(u: Uint8, v: Uint8, full: float = 1.0) -> Uint8:
    """Colour a quantised field u, v (H, W) as RGB (H, W, 3).

    To the right is red, the farther the stronger: saturation grows with the root of the length, so
    that small motions are seen, and is complete at `full`, as a share of the bound of quantisation.
    """
    x, y = (_in_bounds(component) for component in (u, v))
    length, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    # Zero lies between two levels: below one level's length there is rest.
    length = np.where(length < REST, 0, np.minimum(length / full, 1))
    hsv = np.stack([angle, np.sqrt(length), np.ones_like(length)], axis=-1)
    return np.rint(cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def usual_length(u: Uint8, v: Uint8, share: float = 0.99) -> float:
    """A length that this share of all that moves in quantised fields does not exceed, 0.1 to 1.

    A share of the bound of quantisation, for `full` of `colour_wheel`: real flow is seldom near it.
    """
    length = np.hypot(*(_in_bounds(component) for component in (u, v)))
    moving = length[length >= REST]
    return float(np.clip(np.quantile(moving, share), 0.1, 1)) if moving.size else 1.0


def _in_bounds(component: Uint8) -> npt.NDArray[np.float32]:
    """Levels 0..255 as -1..1."""
    return (component.astype(np.float32) - 127.5) / 127.5
