"""The key to flow's colours."""

import numpy as np
from matplotlib.figure import Figure

from src.flow.colour import colour_wheel

SIDE = 401  # pixels


def draw_colour_key(bound: float = 20.0) -> Figure:
    """Draw which colour a motion has, rest in the middle.

    Args:
        bound: of quantisation in pixels per frame, at the wheel's rim.
    """
    levels = np.linspace(0, 255, SIDE)
    u, v = np.meshgrid(levels, levels)
    key = colour_wheel(np.rint(u).astype(np.uint8), np.rint(v).astype(np.uint8))
    key[np.hypot(u - 127.5, v - 127.5) > 127.5] = 255
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(key, extent=(-bound, bound, bound, -bound))
    axes.set_xlabel("u, pixels per frame, to the right")
    axes.set_ylabel("v, pixels per frame, downwards")
    axes.set_title("Flow as colours")
    for share in (0.25, 0.5, 1.0):
        circle = np.linspace(0, 2 * np.pi, 200)
        x, y = share * bound * np.cos(circle), share * bound * np.sin(circle)
        axes.plot(x, y, color="0.3", linewidth=0.5)
    axes.set_xticks([-bound, -bound / 2, 0, bound / 2, bound])
    axes.set_yticks([-bound, -bound / 2, 0, bound / 2, bound])
    axes.spines[:].set_visible(False)
    return figure
