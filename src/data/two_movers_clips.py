"""Drawing the clips of two_movers: what moves where is shown only by both streams at one position.

Noise drifts behind two apertures that stay in place: the target is tinted red or green, the
distractor blue. The label is the target's tint and direction. A frame shows the tint alone; flow
shows both directions, but not whose is whose, because all tints have the same luma. Objects that
move as one would leak: where they start tells their direction.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

VERSION = 1  # of the recipe: raise it when what is drawn changes
SIZE, FRAMES, FPS = 64, 32, 25
RADIUS = 0.165 * SIZE
TORUS = 96  # a texture's side: an aperture and its drift, 31 frames of 2 px, do not go round it

# Offsets to a grey pixel's R, G, B that keep its luma (0.299 R + 0.587 G + 0.114 B).
TINTS = {
    "red": 72 * np.array([0.701, -0.299, -0.299]),
    "green": 72 * np.array([-0.587, 0.413, -0.587]),
    "blue": 72 * np.array([-0.114, -0.114, 0.886]),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # u, v
CLASSES = tuple(f"{tint}_{direction}" for tint in ("red", "green") for direction in DIRECTIONS)
CORNERS = {"disc": 0, "square": 4, "triangle": 3, "hexagon": 6}

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Mover:
    """One aperture: its center (x, y) in pixels, its tint, and where the noise in it drifts."""

    center: tuple[float, float]
    tint: str
    direction: str


@dataclass(frozen=True)
class Clip:
    """A clip's frames, uint8 RGB (32, 64, 64, 3), and what they show; `speed` in px per frame."""

    frames: npt.NDArray[np.uint8]
    shape: str
    speed: float
    target: Mover
    distractor: Mover


def make_clip(rng: np.random.Generator, label: int) -> Clip:
    """Draw one clip of class CLASSES[label].

    What is drawn does not depend on the label, which enters afterwards: clips of one generator
    state and different labels share shapes, places, textures, speed, noise, and their first frame
    but for the tint.
    """
    tint, direction = CLASSES[label].split("_")
    shape = str(rng.choice(list(CORNERS)))
    centers = _centers(rng)
    masks = [_aperture(center, CORNERS[shape], rng.uniform(0, 2 * math.pi)) for center in centers]
    speed = float(rng.uniform(1, 2))
    textures = [_texture(rng) for _ in range(3)]
    noise = rng.normal(scale=3, size=(FRAMES, SIZE, SIZE))
    turn = int(rng.integers(1, len(DIRECTIONS)))
    names = list(DIRECTIONS)
    other = names[(names.index(direction) + turn) % len(names)]
    movers = [Mover(centers[0], tint, direction), Mover(centers[1], "blue", other)]

    luma = np.repeat(_drift(textures[2], (0, 0), 1), FRAMES, axis=0)  # (T, H, W)
    color = np.zeros((SIZE, SIZE, 3))
    for mover, mask, texture in zip(movers, masks, textures[:2], strict=True):
        u, v = DIRECTIONS[mover.direction]
        luma += mask * (_drift(texture, (u * speed, v * speed), FRAMES) - luma)
        color += mask[..., None] * TINTS[mover.tint]
    # Within two deviations no pixel leaves 0..255, tinted or not: clipping would change its luma.
    luma = 128 + 24 * np.clip(luma, -2, 2) + noise
    frames = np.clip(np.rint(luma[..., None] + color), 0, 255).astype(np.uint8)  # (T, H, W, 3)
    return Clip(frames, shape, speed, *movers)


def _centers(rng: np.random.Generator) -> list[tuple[float, float]]:
    while True:
        first, second = rng.uniform(RADIUS + 1, SIZE - RADIUS - 1, size=(2, 2)).tolist()
        if math.dist(first, second) > 2.5 * RADIUS:
            return [tuple(first), tuple(second)]


def _aperture(center: tuple[float, float], corners: int, angle: float) -> Array:
    """A disc or regular polygon as a mask (H, W) of 0..1 with an edge one pixel soft."""
    x = (np.arange(SIZE) + 0.5 - center[0])[None, :]
    y = (np.arange(SIZE) + 0.5 - center[1])[:, None]
    if corners == 0:
        outside = np.hypot(x, y) - RADIUS
    else:  # how far beyond the farthest of its sides
        normals = angle + 2 * math.pi * np.arange(corners)[:, None, None] / corners
        sides = x * np.cos(normals) + y * np.sin(normals)  # (corners, H, W)
        outside = sides.max(axis=0) - RADIUS * math.cos(math.pi / corners)
    return np.clip(0.5 - outside, 0, 1)


def _texture(rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """Smooth noise on a torus as its spectrum (TORUS, TORUS // 2 + 1); deviation 1, mean 0."""
    spectrum = np.fft.rfft2(rng.normal(size=(TORUS, TORUS)))
    frequency = np.hypot(np.fft.fftfreq(TORUS)[:, None], np.fft.rfftfreq(TORUS)[None, :])
    spectrum *= np.exp(-0.5 * (frequency / 0.11) ** 2) * (frequency > 0)
    return (spectrum / np.fft.irfft2(spectrum).std()).astype(np.complex64)


def _drift(texture: npt.NDArray[np.complex64], velocity: tuple[float, float], frames: int) -> Array:
    """Frames (T, H, W) of a texture that moves by `velocity` = (u, v) px per frame.

    Shifting the phases is exact at any part of a pixel. Interpolating blurs along the motion, and
    a single frame would show its axis.
    """
    times = -2j * math.pi * np.arange(frames)[:, None, None]
    u, v = velocity
    phases = np.exp(times * u * np.fft.rfftfreq(TORUS)[None, None, :])
    phases = phases * np.exp(times * v * np.fft.fftfreq(TORUS)[None, :, None])
    moved = np.fft.irfft2(texture * phases.astype(np.complex64))  # (T, TORUS, TORUS)
    return moved[:, :SIZE, :SIZE]
