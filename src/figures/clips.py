"""Clips as pictures: frames as they are, flow in colours."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from src.data.sources import Uint8
from src.flow.colour import colour_wheel, usual_length

GAP, GREY = 2, 200  # pixels between pictures, and their level: white is rest in flow


def clip_frames(rgb: Tensor) -> Uint8:
    """Frames (T, H, W, 3) of a uint8 clip (3, T, H, W)."""
    return rgb.permute(1, 2, 3, 0).cpu().numpy()


def flow_pictures(flow: Tensor) -> Uint8:
    """The middle field of every stack in colours (T, H, W, 3), of a uint8 clip (2L, T, H, W).

    The clip's fast motions have full colours, however fast they are.
    """
    middle = len(flow) // 4 * 2  # u1, v1, u2, v2, ...
    fields = flow[middle : middle + 2].cpu().numpy()  # (2, T, H, W)
    full = usual_length(*fields)
    return np.stack([colour_wheel(u, v, full) for u, v in zip(*fields, strict=True)])


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
    return joined([joined(list(row[shown]), axis=1) for row in rows], axis=0)


def joined(pictures: Sequence[Uint8], axis: int) -> Uint8:
    """Pictures (H, W, 3) side by side (axis 1) or one below the other (axis 0), as one."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, GREY, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis)
