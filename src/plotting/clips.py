"""Clips as pictures: frames as they are, flow in colors."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import flow_to_image

from src.media.sources import Uint8
from src.plotting.charts import plain

REST = 2.0  # levels of quantized flow: zero lies between two of them
COLUMNS = 5  # frames of a clip in a picture, at most
GAP, GREY = 2, 200  # pixels between pictures, and their level: white is rest in flow
WIDTH = 7.0  # inches of a strip
TITLE, BETWEEN = 0.28, 0.08  # inches above a titled strip, under each
EDGE, LINE = 0.08, 0.27  # at both ends, and more with a line of text there


def clip_frames(rgb: Tensor) -> Uint8:
    """Frames (T, H, W, 3) of a uint8 clip (3, T, H, W)."""
    return rgb.permute(1, 2, 3, 0).cpu().numpy()


def color_flow(fields: Tensor, full: float = 127.5) -> Uint8:
    """Quantized fields in the colors of Middlebury (T, H, W, 3): to the right is red, rest white.

    Args:
        fields: uint8 (T, 2, H, W).
        full: a length in levels that has full colors; if there are longer ones, the longest.
    """
    flow = fields.float() - 127.5
    flow = torch.where(flow.norm(dim=1, keepdim=True) < REST, 0, flow)
    flow = F.pad(flow, (0, 1))
    flow[:, 0, :, -1] = full  # a column for the scale, which is the longest vector's
    return flow_to_image(flow)[..., :-1].permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)


def flow_pictures(flow: Tensor) -> Uint8:
    """The middle field of every stack in colors (T, H, W, 3), of a uint8 clip (2L, T, H, W).

    The clip's fastest motion has full colors, if it is a tenth of the bound or more.
    """
    middle = len(flow) // 4 * 2  # u1, v1, u2, v2, ...
    fields = flow[middle : middle + 2].cpu().transpose(0, 1)  # (T, 2, H, W)
    return color_flow(fields, full=12.75)


def draw_clip(rows: Collection[Uint8]) -> Uint8:
    """A picture (H', W', 3) of a clip's images (T, H, W, 3), some of them, evenly spaced."""
    frames = len(next(iter(rows)))
    shown = np.linspace(0, frames - 1, min(COLUMNS, frames)).round().astype(int)
    return joined([joined(list(row[shown]), axis=1) for row in rows], axis=0)


def images_of(clip: Mapping[str, Any]) -> dict[str, Uint8]:
    """The images (T, H, W, 3) of each modality of a uint8 clip (C, T, H, W).

    Flow is drawn by the field at its frame, the middle one of the stack.
    """
    draw = {"rgb": clip_frames, "flow": flow_pictures}
    return {name: pictures(clip[name]) for name, pictures in draw.items() if name in clip}


def joined(pictures: Sequence[Uint8], axis: int) -> Uint8:
    """Pictures (H, W, 3) side by side (axis 1) or one below the other (axis 0), as one."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, GREY, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis)


@dataclass(frozen=True)
class Strip:
    """A row of a figure: images (T, H, W, 3) with a label at their left."""

    label: str
    images: Uint8
    title: str = ""  # above it

    @property
    def height(self) -> float:
        """Inches."""
        frames, height, width = self.images.shape[:3]
        return WIDTH * height / (frames * (width + GAP) - GAP)


def clip_images(batch: Mapping[str, Tensor], clip: int) -> dict[str, Uint8]:
    """The images of a clip of a uint8 batch (B, C, T, H, W), see `images_of`."""
    return images_of({name: batch[name][clip] for name in ("rgb", "flow") if name in batch})


def draw_strips(strips: Sequence[Strip], labels: float, title: str = "", about: str = "") -> Figure:
    """Draw strips under each other, with a title above all and a small text `about` them below.

    `labels` are the inches for the labels at the left.
    """
    # Placed by hand: a layout engine cuts off labels beside images, whose aspect is fixed.
    width = labels + WIDTH + 0.1
    tops = [TITLE if strip.title else 0.0 for strip in strips]
    head, foot = (EDGE + LINE * bool(text) for text in (title, about))
    height = head + foot + sum(tops) + sum(strip.height + BETWEEN for strip in strips)
    figure = Figure(figsize=(width, height))
    y = height - head
    for top, strip in zip(tops, strips, strict=True):
        y -= top + strip.height
        place = (labels / width, y / height, WIDTH / width, strip.height / height)
        axes = figure.add_axes(place, xticks=[], yticks=[])
        picture = joined(list(strip.images), axis=1)
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.spines[:].set_color([GREY / 255] * 3)
        axes.set_ylabel(strip.label, rotation=0, ha="right", va="center", fontsize=9)
        axes.set_title(plain(strip.title), loc="left", fontsize=9)
        y -= BETWEEN
    middle = (labels + WIDTH / 2) / width
    figure.text(middle, 1 - EDGE / height, title, ha="center", va="top")
    figure.text(middle, EDGE / height, about, ha="center", va="bottom", fontsize=8)
    return figure
