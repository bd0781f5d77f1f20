"""Videos as a torch dataset: one view of one video is one sample.

A view is what a network gets to see: which frames, cut how, at what size, mirrored or not.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Protocol

import cv2
import numpy as np
from torch.utils.data import Dataset

from src.data.sampling import (
    STRIDED_SAMPLER,
    ClipSampler,
    Indices,
    evenly_spaced,
    stack_indices,
    valid_range,
)
from src.data.stores import FlowStore, FramesForFlow, FrameStore
from src.data.transforms import (
    WHOLE_FRAME,
    CenterCrop,
    ColorTransform,
    CropPolicy,
    CropResizeFlip,
    augment_colors,
    flow_clip,
    rgb_clip,
)
from src.data.videos import Video
from src.media.sources import FlowSource, RGBSource, Size, size_at
from src.utils.errors import UserError

log = logging.getLogger(__name__)
Sample = dict[str, Any]
VideoAndEpoch = tuple[int, int]  # which video, which epoch over the list
MODALITIES = ("rgb", "flow")
# Released flow has one field fewer than there are frames, or two; more is another video's flow.
COUNT_TOLERANCE = 2


class View(Protocol):
    """Chooses frames and their cut; every random choice comes from `rng`."""

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Frames out of the valid range first..last."""

    def geometry(self, frame: Size, rng: np.random.Generator) -> CropResizeFlip:
        """The cut for frames of the size (height, width)."""


@dataclass(frozen=True)
class TrainView:
    """For training: frames drawn by a sampler; a random crop and mirroring."""

    count: int
    stride: tuple[int, int]
    crop: CropPolicy
    crop_size: int
    short_side: int
    hflip: bool
    sampler: ClipSampler = STRIDED_SAMPLER

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Frames that the sampler draws."""
        return self.sampler(first, last, self.count, self.stride, rng)

    def geometry(self, frame: Size, rng: np.random.Generator) -> CropResizeFlip:
        """A random crop, mirrored with probability one half if mirroring is allowed."""
        box = self.crop(size_at(frame, self.short_side), rng)
        hflip = self.hflip and bool(rng.random() < 0.5)
        return CropResizeFlip(box, (self.crop_size, self.crop_size), hflip)


@dataclass(frozen=True)
class ValView:
    """For validation: the sampler's fixed clip of the video and the center crop of its frames."""

    count: int
    stride: tuple[int, int]
    crop_size: int
    short_side: int
    sampler: ClipSampler = STRIDED_SAMPLER

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """The sampler's clip without chance."""
        return self.sampler(first, last, self.count, self.stride, None)

    def geometry(self, frame: Size, rng: np.random.Generator) -> CropResizeFlip:
        """The center crop; nothing is drawn."""
        box = CenterCrop(self.crop_size)(size_at(frame, self.short_side), rng)
        return CropResizeFlip(box, (self.crop_size, self.crop_size))


@dataclass(frozen=True)
class TestView:
    """For testing: full frames, evenly spaced over the full video."""

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    count: int
    short_side: int

    def frames(self, first: int, last: int, rng: np.random.Generator) -> Indices:
        """Evenly spaced frames; nothing is drawn."""
        return evenly_spaced(first, last, self.count)

    def geometry(self, frame: Size, rng: np.random.Generator) -> CropResizeFlip:
        """The full frame; nothing is drawn."""
        return CropResizeFlip(WHOLE_FRAME, size_at(frame, self.short_side))


def read_view(
    rgb: RGBSource | None,
    flow: FlowSource | FramesForFlow | None,
    view: View,
    stack: int,
    rng: np.random.Generator,
    name: str = "video",
) -> Sample:
    """Read one view of a video from its sources, uint8.

    Args:
        rgb, flow: where frames and flow come from, None if the network sees none.
        view: chooses frames and geometry, by chance from `rng`.
        stack: flow fields around a frame (L).
        name: for messages.

    Returns:
        "rgb" (3, T, H, W) and "flow" (2L, T, H, W) of the same frames, crop and mirroring, for the
        sources that are given; instead of flow, what it can be computed from on the device.

    Raises:
        UserError: the flow cannot belong to the frames.
    """
    num_frames = rgb.num_frames if rgb else flow.num_fields + 1 if flow else 0
    # Without flow the room for it is left all the same, so that streams see one range.
    num_fields = flow.num_fields if flow else num_frames - 1
    if num_fields != num_frames - 1:
        message = f"video {name} has {num_frames} frames and {num_fields} flow fields"
        if abs(num_fields - (num_frames - 1)) > COUNT_TOLERANCE:
            raise UserError(
                f"{message}, not one fewer: they are not of the same video; extract its flow again"
            )
        _warn_once(f"{message}, not one fewer: frames beyond the shorter are not used")
    if flow and min(num_frames, num_fields + 1) <= stack:
        _warn_once(
            f"video {name} has {num_frames} frames, too few for a stack of {stack} flow fields: "
            "its first and last fields are repeated"
        )
    first, last = valid_range(num_frames, num_fields, stack)
    frames = view.frames(first, last, rng)

    geometry: CropResizeFlip | None = None
    sample: Sample = {}
    if rgb:
        images = rgb.rgb(frames.tolist())
        first_image = next(images)
        geometry = view.geometry(first_image.shape[:2], rng)
        sample["rgb"] = rgb_clip(chain([first_image], images), len(frames), geometry)
    if isinstance(flow, FramesForFlow):
        sample |= flow.read(frames, stack, lambda size: geometry or view.geometry(size, rng))
    elif flow:
        places = stack_indices(frames, stack, flow.num_fields)
        fields = flow.flow(list(places))
        first_field = next(fields)
        geometry = geometry or view.geometry(first_field[0].shape, rng)
        sample["flow"] = flow_clip(
            chain([first_field], fields), list(places.values()), (len(frames), stack), geometry
        )
    return sample


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


@dataclass(eq=False)
class VideoDataset(Dataset[Sample]):
    """Views of listed videos.

    An item is asked for by (video, epoch), which with the seed fixes every random choice: the same
    clips come out whatever the number and the order of worker processes.

    Args:
        videos: what to read, as the stores have found them.
        rgb, flow: where frames and flow lie, None if the network sees none.
        view, stack: see `read_view`.
        seed: of all random choices.
        augment: what more is done to the colors of a clip; flow has none.
    """

    videos: Sequence[Video]
    rgb: FrameStore | None
    flow: FlowStore | None
    view: View
    stack: int
    seed: int
    augment: ColorTransform | None = None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, draw: VideoAndEpoch) -> Sample:
        """Read one view: the tensors of `read_view`, "label" and "video" (its name)."""
        index, epoch = draw
        cv2.setNumThreads(0)  # worker processes are the parallelism
        video, rng = self.videos[index], np.random.default_rng((self.seed, epoch, index))
        sample = read_view(
            self.rgb.open(video) if self.rgb else None,
            self.flow.open(video) if self.flow else None,
            self.view,
            self.stack,
            rng,
            video.name,
        )
        if self.augment and self.rgb:
            sample["rgb"] = augment_colors(sample["rgb"], self.augment, rng)
        return sample | {"label": video.label, "video": video.name}
