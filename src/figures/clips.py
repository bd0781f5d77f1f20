"""A clip as one picture: frames side by side, their flow in colours below."""

import numpy as np
from torch import Tensor

from src.data.sources import Uint8
from src.flow.colour import colour_wheel

GAP = 2  # pixels between pictures


def clip_frames(rgb: Tensor) -> Uint8:
    """Frames (T, H, W, 3) of a uint8 clip (3, T, H, W)."""
    return rgb.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def flow_pictures(flow: Tensor) -> Uint8:
    """The middle field of every stack in colours (T, H, W, 3), of a uint8 clip (2L, T, H, W)."""
    middle = len(flow) // 4 * 2  # u of the middle field; v follows
    fields = flow[middle : middle + 2].cpu().numpy()  # (2, T, H, W)
    return np.stack([colour_wheel(u, v) for u, v in zip(*fields, strict=True)])


def draw_clip(rgb: Tensor | None, flow: Tensor | None, columns: int = 5) -> Uint8:
    """The picture (H', W', 3) of a uint8 clip, of which some frames are shown, evenly spaced.

    Args:
        rgb: (3, T, H, W), None if the network sees none.
        flow: (2L, T, H, W), None likewise.
        columns: frames to show, at most.
    """
    rows = [clip_frames(rgb)] if rgb is not None else []
    rows += [flow_pictures(flow)] if flow is not None else []
    frames = len(rows[0])
    shown = np.linspace(0, frames - 1, min(columns, frames)).round().astype(int)
    return _joined([_joined(list(row[shown]), axis=1) for row in rows], axis=0)


def _joined(pictures: list[Uint8], axis: int) -> Uint8:
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis)
