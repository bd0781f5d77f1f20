"""Where the frames and the flow of a dataset's videos lie: files, folders, archives, or nowhere.

A store finds the listed videos among what is there, and opens one at a time; its `place` says
where, for messages. Any two can be put together: RGB from videos with flow from an archive, or
everything from archives.
"""

import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from src.data.sampling import Indices
from src.data.transforms import CropResizeFlip
from src.data.videos import Video, Videos
from src.flow.after_transfer import FRAMES, LENGTHS, Batch
from src.flow.algorithm import prepare
from src.flow.algorithms import ALGORITHMS
from src.flow.computed import OnTheFlyFlow
from src.flow.settings import FlowSettings
from src.media.images import FlowImages, FrameImages, ImageIndex, open_images
from src.media.sources import RGBSource, Size, size_at
from src.media.video_file import VideoFile
from src.utils.commands import shown_override
from src.utils.errors import UserError

VIDEOS = "videos"  # data.rgb: the dataset's own video files
ON_THE_FLY = "on_the_fly"  # data.flow: computed from the frames


class VideoFiles:
    """Video files where the lists say that they are, whatever the case of their names.

    UCF101's lists say v_HandstandPushups_*, its files are called v_HandStandPushups_*.
    """

    def __init__(self, decoder: str = "auto") -> None:
        self.decoder, self.place = decoder, "the videos' folders"

    def find(self, videos: Videos) -> Iterator[str | None]:
        """The path of each video's file, None where there is none; each folder is listed once."""
        on_disk: dict[str, dict[str, str]] = {}
        for path in videos.paths:
            folder, expected = os.path.split(path)
            if folder not in on_disk:
                names = os.listdir(folder or ".") if os.path.isdir(folder or ".") else ()
                on_disk[folder] = {name.lower(): name for name in names}
            name = on_disk[folder].get(expected.lower())
            yield os.path.join(folder, name) if name else None

    def open(self, video: Video) -> VideoFile:
        """The frames of a video file."""
        return VideoFile(video.path, self.decoder)


class ImageStore:
    """Videos as JPEG images, in folders or in archives."""

    components: tuple[str, ...]  # of which a video must have the first

    def __init__(self, index: ImageIndex) -> None:
        self.index, self.place = index, str(index.root)

    def find(self, videos: Videos) -> Iterator[str | None]:
        """The path of each video as it is, None where it has no images."""
        for name, path in zip(videos.names, videos.paths, strict=True):
            yield path if self.index.images(self.components[0], name) else None


class FrameFolders(ImageStore):
    """Frames as JPEG images."""

    components = ("rgb",)

    def open(self, video: Video) -> FrameImages:
        """The frames of a video."""
        return FrameImages(self.index, video.name)


class FlowFolders(ImageStore):
    """Flow as JPEG images."""

    components = ("u", "v")

    def open(self, video: Video) -> FlowImages:
        """The flow of a video."""
        return FlowImages(self.index, video.name)


class FramesForFlow:
    """The frames of one video that its flow is computed from later.

    Raises:
        UserError: the video has a single frame.
    """

    def __init__(self, frames: RGBSource, settings: FlowSettings) -> None:
        if frames.num_frames < 2:
            raise UserError("a video of a single frame has no optical flow")
        self.frames, self.num_fields = frames, frames.num_frames - 1
        self._short_side = settings.short_side
        self._color = ALGORITHMS[settings.algorithm].color

    def read(
        self, frames: Indices, stack: int, geometry_of: Callable[[Size], CropResizeFlip]
    ) -> Batch:
        """Read what the flow of a clip's frames needs, cut as their first image asks for.

        Returns:
            "flow_frames", uint8 (T, L + 1, *size), or (T, L + 1, *size, 3) where the algorithm
            sees colors; beyond the video's ends its first and last frames are repeated.
            "flow_lengths", float32 (2,): what u and v of the cut are multiplied by.
        """
        around = frames[:, None] + np.arange(-(stack // 2), stack // 2 + 1)[None, :]  # (T, L + 1)
        around = np.clip(around, 0, self.frames.num_frames - 1)
        distinct, places = np.unique(around, return_inverse=True)
        images = self.frames.rgb(distinct.tolist())
        first = next(images)
        geometry = geometry_of(first.shape[:2])
        cuts = [
            prepare(geometry.cut(image), min(geometry.size), self._color)
            for image in chain([first], images)
        ]
        v, u = geometry.flow_lengths(size_at(first.shape[:2], self._short_side))
        return {
            FRAMES: torch.from_numpy(np.stack(cuts)[places.reshape(around.shape)]),
            LENGTHS: torch.tensor([u, v], dtype=torch.float32),
        }


class OnTheFlyFlowStore:
    """Flow computed from the frames when a clip asks for it: by the worker, or after transfer."""

    def __init__(self, frames: "FrameStore", settings: FlowSettings) -> None:
        self.frames, self.settings = frames, settings
        self.place = f"{frames.place} (computed on the fly)"

    def find(self, videos: Videos) -> Iterator[str | None]:
        """Those that have frames, as their store has them."""
        return self.frames.find(videos)

    def open(self, video: Video) -> OnTheFlyFlow | FramesForFlow:
        """The flow of a video, or its frames if the device is to compute it."""
        frames = self.frames.open(video)
        if self.settings.uses_torch:
            return FramesForFlow(frames, self.settings)
        return OnTheFlyFlow(frames, self.settings, self.settings.make())


FrameStore = VideoFiles | FrameFolders
FlowStore = FlowFolders | OnTheFlyFlowStore


def open_rgb(place: str, decoder: str, cache_dir: str | None) -> FrameStore:
    """Open where frames lie: "videos" for the dataset's video files, else see `open_images`.

    Raises:
        UserError: there is nothing, or an archive is damaged.
    """
    if place == VIDEOS:
        return VideoFiles(decoder)
    return FrameFolders(open_images(place, cache_dir))


def open_flow(
    place: str, frames: FrameStore | None, settings: FlowSettings | None, cache_dir: str | None
) -> FlowStore:
    """Open where flow lies: "on_the_fly" computes it from `frames`, else see `open_images`.

    Raises:
        UserError: there is nothing, an archive is damaged, or nothing says how to compute flow.
    """
    if place == ON_THE_FLY:
        if frames is None or settings is None:
            raise UserError("data.flow=on_the_fly needs data.flow_settings, such as those of dis")
        return OnTheFlyFlowStore(frames, settings)
    if not Path(place).exists():
        raise UserError(
            f"flow {place} does not exist: make it with python -m src.extract_flow "
            f"input=<folder of videos> {shown_override(('output', place))}, or compute it with "
            f"data.flow={ON_THE_FLY}"
        )
    FlowSettings.load(Path(place))  # refuses flow that cannot be relied on
    return FlowFolders(open_images(place, cache_dir))
