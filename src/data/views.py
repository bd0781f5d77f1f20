"""What a network gets to see of a video: which frames, cut how, at what size, mirrored or not."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from src.data.sampling import Indices, central_clip, evenly_spaced, training_clip
from src.data.sources import Size
from src.data.transforms import WHOLE_FRAME, CentreCrop, CropPolicy, Geometry, size_at


class View(Protocol):
    """Chooses frames and geometry; every random choice comes from `rng`."""

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Frames out of the valid range first..last."""
        ...

    def geometry(self, frame: Size, rng: np.random.Generator) -> Geometry:
        """Geometry for frames of the size (height, width)."""
        ...


@dataclass(frozen=True)
class RandomClip:
    """For training: a random strided run of frames, cropped and mirrored at random."""

    count: int
    stride: tuple[int, int]
    crop: CropPolicy
    crop_size: int
    short_side: int
    mirror: bool

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """A random run of the grid first : tau : last."""
        return training_clip(first, last, self.count, self.stride, rng)

    def geometry(self, frame: Size, rng: np.random.Generator) -> Geometry:
        """A random crop, mirrored with probability one half if mirroring is allowed."""
        box = self.crop(size_at(frame, self.short_side), rng)
        mirror = self.mirror and bool(rng.random() < 0.5)
        return Geometry(box, (self.crop_size, self.crop_size), mirror)


@dataclass(frozen=True)
class CentralClip:
    """For validation: the clip in the middle of the video and the centre crop of its frames."""

    count: int
    stride: tuple[int, int]
    crop_size: int
    short_side: int

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Frames around the middle; nothing is drawn."""
        return central_clip(first, last, self.count, self.stride)

    def geometry(self, frame: Size, rng: np.random.Generator) -> Geometry:
        """The centre crop; nothing is drawn."""
        box = CentreCrop(self.crop_size)(size_at(frame, self.short_side), rng)
        return Geometry(box, (self.crop_size, self.crop_size))


@dataclass(frozen=True)
class WholeVideo:
    """For testing: whole frames, evenly spaced over the whole video."""

    count: int
    short_side: int

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Evenly spaced frames; nothing is drawn."""
        return evenly_spaced(first, last, self.count)

    def geometry(self, frame: Size, rng: np.random.Generator) -> Geometry:
        """The whole frame; nothing is drawn."""
        return Geometry(WHOLE_FRAME, size_at(frame, self.short_side))
