"""Clips as images: frames as they are, flow as colours, side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from src.data.sources import Uint8
from src.flow.colour import colour_wheel

GAP = 3  # white pixels between frames


def clip_images(batch: Mapping[str, Tensor], clip: int) -> dict[str, Uint8]:
    """The images (T, H, W, 3) of each modality of a uint8 batch.

    Flow is drawn by the field at its frame, the middle one of the stack.

    Args:
        batch: "rgb" (B, 3, T, H, W) and/or "flow" (B, 2L, T, H, W).
        clip: which of the B.
    """
    images: dict[str, Uint8] = {}
    if "rgb" in batch:
        images["rgb"] = batch["rgb"][clip].permute(1, 2, 3, 0).cpu().numpy()  # (T, H, W, 3)
    if "flow" in batch:
        stacks = batch["flow"][clip].cpu().numpy()  # (2L, T, H, W)
        u = 2 * (len(stacks) // 4)  # u1, v1, u2, v2, ...
        images["flow"] = np.stack(
            [colour_wheel(*field) for field in zip(stacks[u], stacks[u + 1], strict=True)]
        )
    return images


def show_strip(axes: Axes, images: Sequence[Uint8] | Uint8, label: str) -> None:
    """Draw images (H, W, 3) side by side, without an axis, the label at their left."""
    height = len(images[0])
    gap = np.full((height, GAP, 3), 255, dtype=np.uint8)
    parts = [part for image in images for part in (image, gap)][:-1]
    axes.imshow(np.concatenate(parts, axis=1), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_ylabel(label, rotation=0, ha="right", va="center")


def strip_height(images: Sequence[Uint8] | Uint8, width: float) -> float:
    """Inches that images side by side are high if they are `width` inches wide together."""
    height, one = images[0].shape[:2]
    return width * height / (len(images) * (one + GAP))
