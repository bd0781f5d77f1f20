"""Grad-CAM's heat maps over the clips that they explain."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from src.data.sources import Uint8
from src.figures.images import clip_images, show_strip, strip_height
from src.inspection.grad_cam import HeatMaps

WIDTH = 7.0  # inches of a strip
LABELS = 1.8  # beside it
STRENGTH = 0.65  # of the heat over the image
_SEEN = {"appearance": "rgb", "motion": "flow"}


def draw_heat_maps(
    batch: Mapping[str, Tensor], found: Sequence[HeatMaps], clip: int = 0, title: str = ""
) -> Figure:
    """Draw a clip's frames and flow, each above the heat of its stream.

    Args:
        batch: the uint8 clips that were explained.
        found: their heat maps.
        clip: which of the batch.
        title: such as the video and the class that is explained.
    """
    images = clip_images(batch, clip)
    rows: list[tuple[str, Uint8]] = []
    for modality, own in images.items():
        rows.append((modality, own))
        for each in found:
            if _SEEN.get(each.stream) == modality:
                rows.append((_label(each), heated(own, each.maps[clip])))
    heights = [strip_height(strip, WIDTH) for _, strip in rows]
    figure = Figure(figsize=(WIDTH + LABELS, sum(heights) + 0.1 * len(rows) + 0.4))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(rows), squeeze=False, height_ratios=heights)[:, 0]
    for each, (label, strip) in zip(axes, rows, strict=True):
        show_strip(each, strip, label)
    figure.suptitle(title)
    return figure


def heated(images: Uint8, maps: Tensor) -> Uint8:
    """Images (T, H, W, 3) in grey under the colours of maps (T, H, W) in 0..1."""
    heat = matplotlib.colormaps["inferno"](maps.cpu().numpy())[..., :3] * 255  # (T, H, W, 3)
    grey = images.mean(-1, keepdims=True)
    return np.rint(STRENGTH * heat + (1 - STRENGTH) * grey).astype(np.uint8)


def _label(found: HeatMaps) -> str:
    if found.stream == found.classifier:
        return f"{found.stream}:\nits classifier"
    return f"{found.stream} reaching\n{found.classifier}'s classifier"
