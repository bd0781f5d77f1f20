"""Grad-CAM's heat maps over the clips that they explain."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from src.data.sources import Uint8
from src.figures.names import plain
from src.figures.strips import Strip, clip_images, draw_strips
from src.inspection.grad_cam import HeatMaps

LABELS = 1.6  # inches
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
    strips = []
    for modality, images in clip_images(batch, clip).items():
        strips.append(Strip(modality, images))
        for each in found:
            if _SEEN.get(each.stream) == modality:
                strips.append(Strip(_label(each), heated(images, each.maps[clip])))
    return draw_strips(strips, LABELS, plain(title))


def heated(images: Uint8, maps: Tensor) -> Uint8:
    """Images (T, H, W, 3) in grey under the colours of maps (T, H, W) in 0..1."""
    heat = matplotlib.colormaps["inferno"](maps.cpu().numpy())[..., :3] * 255  # (T, H, W, 3)
    grey = images.mean(-1, keepdims=True)
    return np.rint(STRENGTH * heat + (1 - STRENGTH) * grey).astype(np.uint8)


def _label(found: HeatMaps) -> str:
    if found.stream == found.classifier:
        return f"{found.stream}\nfor its classifier"
    return f"{found.stream} for the\n{found.classifier} classifier"
