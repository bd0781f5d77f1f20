"""Smooth textures that move by a known shift."""

import cv2
import numpy as np
import numpy.typing as npt


def moving_texture(
    shift: tuple[float, float], frames: int, size: tuple[int, int] = (64, 96)
) -> npt.NDArray[np.uint8]:
    """Frames (N, H, W, 3) of a texture that moves by `shift` = (right, down) pixels per frame."""
    height, width = size
    noise = np.random.default_rng(0).uniform(0, 255, (2 * height, 2 * width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    texture = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    images = []
    for index in range(frames):
        # The window moves against the texture.
        x, y = width / 2 - index * shift[0], height / 2 - index * shift[1]
        matrix = np.array([[1, 0, -x], [0, 1, -y]])
        images.append(cv2.warpAffine(texture, matrix, (width, height)))
    grey = np.rint(np.stack(images)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
