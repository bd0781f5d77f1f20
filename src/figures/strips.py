"""Clips as strips of images: frames as they are, flow as colours, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

from src.data.sources import Uint8
from src.figures.clips import GAP, GREY, clip_frames, flow_pictures, joined
from src.figures.names import plain

WIDTH = 7.0  # inches of a strip
TITLE, BETWEEN = 0.28, 0.08  # inches above a titled strip, under each
EDGE, LINE = 0.08, 0.27  # at both ends, and more with a line of text there


@dataclass(frozen=True)
class Strip:
    """A row of a figure.

    Args:
        label: at its left.
        images: (T, H, W, 3).
        title: above it; "" for none.
    """

    label: str
    images: Uint8
    title: str = ""

    @property
    def height(self) -> float:
        """Inches."""
        frames, height, width = self.images.shape[:3]
        return WIDTH * height / (frames * (width + GAP) - GAP)

    def joined(self) -> Uint8:
        """One image (H, W', 3)."""
        return joined(list(self.images), axis=1)


def clip_images(batch: Mapping[str, Tensor], clip: int) -> dict[str, Uint8]:
    """The images (T, H, W, 3) of each modality of a uint8 batch.

    Flow is drawn by the field at its frame, the middle one of the stack.

    Args:
        batch: "rgb" (B, 3, T, H, W) and/or "flow" (B, 2L, T, H, W).
        clip: which of the B.
    """
    draw = {"rgb": clip_frames, "flow": flow_pictures}
    return {name: pictures(batch[name][clip]) for name, pictures in draw.items() if name in batch}


def draw_strips(strips: Sequence[Strip], labels: float, title: str = "", about: str = "") -> Figure:
    """Draw strips under each other.

    Args:
        strips: at least one.
        labels: inches for the labels at the left.
        title: above all.
        about: below all, small.
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
        axes = figure.add_axes(
            (labels / width, y / height, WIDTH / width, strip.height / height),
            xticks=[],
            yticks=[],
        )
        axes.imshow(strip.joined(), interpolation="nearest", aspect="auto")
        axes.spines[:].set_color([GREY / 255] * 3)
        axes.set_ylabel(strip.label, rotation=0, ha="right", va="center", fontsize=9)
        axes.set_title(plain(strip.title), loc="left", fontsize=9)
        y -= BETWEEN
    middle = (labels + WIDTH / 2) / width
    figure.text(middle, 1 - EDGE / height, title, ha="center", va="top")
    figure.text(middle, EDGE / height, about, ha="center", va="bottom", fontsize=8)
    return figure
