"""What a network gets to see of a video: which frames, cut how, at what size, mirrored or not."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from src.data.augment import Augmentation
from src.data.resize import size_at
from src.data.sampling import STRIDED_RUN, ClipSampler, Indices, evenly_spaced
from src.data.sources import Size
from src.data.transforms import WHOLE_FRAME, CentreCrop, CropPolicy, Cut, Geometry


class View(Protocol):
    """Chooses frames and their cut; every random choice comes from `rng`."""

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Frames out of the valid range first..last."""
        ...

    def geometry(self, frame: Size, rng: np.random.Generator) -> Cut:
        """The cut for frames of the size (height, width)."""
        ...


@dataclass(frozen=True)
class RandomClip:
    """For training: frames drawn by a sampler; a random crop, mirroring and augmentation."""

    count: int
    stride: tuple[int, int]
    crop: CropPolicy
    crop_size: int
    short_side: int
    mirror: bool
    sampler: ClipSampler = STRIDED_RUN
    augment: Augmentation | None = None
    rescale_flow: bool = False

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Frames that the sampler draws."""
        return self.sampler(first, last, self.count, self.stride, rng)

    def geometry(self, frame: Size, rng: np.random.Generator) -> Cut:
        """A random crop, mirrored with probability one half if mirroring is allowed."""
        box = self.crop(size_at(frame, self.short_side), rng)
        mirror = self.mirror and bool(rng.random() < 0.5)
        cut = Geometry(box, (self.crop_size, self.crop_size), mirror, self.rescale_flow)
        return self.augment(cut, rng) if self.augment else cut


@dataclass(frozen=True)
class CentralClip:
    """For validation: the sampler's fixed clip of the video and the centre crop of its frames."""

    count: int
    stride: tuple[int, int]
    crop_size: int
    short_side: int
    sampler: ClipSampler = STRIDED_RUN
    rescale_flow: bool = False

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """The sampler's clip without chance."""
        return self.sampler(first, last, self.count, self.stride, None)

    def geometry(self, frame: Size, rng: np.random.Generator) -> Cut:
        """The centre crop; nothing is drawn."""
        box = CentreCrop(self.crop_size)(size_at(frame, self.short_side), rng)
        size = (self.crop_size, self.crop_size)
        return Geometry(box, size, rescale_flow=self.rescale_flow)


@dataclass(frozen=True)
class WholeVideo:
    """For testing: whole frames, evenly spaced over the whole video."""

    count: int
    short_side: int
    rescale_flow: bool = False

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Evenly spaced frames; nothing is drawn."""
        return evenly_spaced(first, last, self.count)

    def geometry(self, frame: Size, rng: np.random.Generator) -> Cut:
        """The whole frame; nothing is drawn."""
        return Geometry(
            WHOLE_FRAME, size_at(frame, self.short_side), rescale_flow=self.rescale_flow
        )
