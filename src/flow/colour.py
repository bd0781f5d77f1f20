"""Flow as colours: the hue tells where to, white is rest."""

import cv2
import numpy as np

from src.data.sources import Uint8


def colour_wheel(u: Uint8, v: Uint8) -> Uint8:
    """Colour a quantised field u, v (H, W) as RGB (H, W, 3).

    To the right is red, the farther the stronger: saturation grows with the root of the length, so
    that small motions are seen, and is full at the bound of quantisation.
    """
    x, y = ((component.astype(np.float32) - 127.5) / 127.5 for component in (u, v))
    length, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    # Zero lies between two levels: below one level's length there is rest.
    length = np.where(length < 2 / 127.5, 0, np.minimum(length, 1))
    hsv = np.stack([angle, np.sqrt(length), np.ones_like(length)], axis=-1)
    return np.rint(cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)
