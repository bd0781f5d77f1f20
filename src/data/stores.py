"""Where the frames and the flow of a dataset's videos lie: files, folders, archives, or nowhere.

A library finds the listed videos among what is there, and opens one at a time. Any two can be put
together: RGB from videos with flow from an archive, or everything from archives.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from src.data.splits import Video
from src.flow.after_transfer import FramesForFlow
from src.flow.computed import OnTheFlyFlow
from src.flow.settings import FlowSettings
from src.media.images import FlowImages, FrameImages, ImageIndex, open_images
from src.media.sources import FlowSource, RGBSource
from src.media.video_file import VideoFile
from src.utils.commands import shown_override
from src.utils.errors import UserError

VIDEOS = "videos"  # data.rgb: the dataset's own video files
ON_THE_FLY = "on_the_fly"  # data.flow: computed from the frames
Source = TypeVar("Source", covariant=True)


class Store(Protocol[Source]):
    """Frames or flow of many videos; `place` says where, for messages."""

    place: str

    def find(self, videos: Sequence[Video]) -> list[Video | None]:
        """The videos as they are there, None for those that are not."""
        ...

    def open(self, video: Video) -> Source:
        """The frames or the flow of one of the videos found."""
        ...


FrameStore = Store[RGBSource]
FlowStore = Store[FlowSource | FramesForFlow]  # or what it is computed from on the device


class VideoFiles:
    """Video files where the lists say that they are, whatever the case of their names.

    UCF101's lists say v_HandstandPushups_*, its files are called v_HandStandPushups_*.
    """

    def __init__(self, decoder: str = "auto") -> None:
        self.decoder, self.place = decoder, "the videos' folders"

    def find(self, videos: Sequence[Video]) -> list[Video | None]:
        """The videos with the path of their file; each folder is listed once."""
        on_disk: dict[Path, dict[str, Path]] = {}
        found: list[Video | None] = []
        for video in videos:
            folder = video.path.parent
            if folder not in on_disk:
                files = folder.iterdir() if folder.is_dir() else ()
                on_disk[folder] = {file.name.lower(): file for file in files}
            file = on_disk[folder].get(video.path.name.lower())
            found.append(replace(video, path=file) if file else None)
        return found

    def open(self, video: Video) -> VideoFile:
        """The frames of a video file."""
        return VideoFile(video.path, self.decoder)


class ImageStore:
    """Videos as JPEG images, in folders or in archives."""

    component: str  # that a video must have

    def __init__(self, tree: ImageIndex) -> None:
        self.tree, self.place = tree, str(tree.root)

    def find(self, videos: Sequence[Video]) -> list[Video | None]:
        """The videos that have images."""
        return [video if self.tree.images(self.component, video.name) else None for video in videos]


class FrameFolders(ImageStore):
    """Frames as JPEG images."""

    component = "rgb"

    def open(self, video: Video) -> FrameImages:
        """The frames of a video."""
        return FrameImages(self.tree, video.name)


class FlowFolders(ImageStore):
    """Flow as JPEG images."""

    component = "u"

    def open(self, video: Video) -> FlowImages:
        """The flow of a video."""
        return FlowImages(self.tree, video.name)


class OnTheFlyFlowStore:
    """Flow computed from the frames when a clip asks for it: by the worker, or after transfer."""

    def __init__(self, frames: FrameStore, settings: FlowSettings) -> None:
        self.frames, self.settings = frames, settings
        self.place = f"{frames.place} (computed on the fly)"

    def find(self, videos: Sequence[Video]) -> list[Video | None]:
        """The videos that have frames."""
        return self.frames.find(videos)

    def open(self, video: Video) -> OnTheFlyFlow | FramesForFlow:
        """The flow of a video, or its frames if the device is to compute it."""
        settings = self.settings
        frames = self.frames.open(video)
        if settings.uses_torch:
            return FramesForFlow(frames, settings)
        return OnTheFlyFlow(frames, settings.make(), settings.short_side, settings.bound)


def open_rgb(place: str, decoder: str, cache_dir: str | None) -> FrameStore:
    """Open where frames lie.

    Args:
        place: "videos" for the dataset's video files; or a folder of JPEG frames, a .zip or
            .zip.001, or a folder of zips.
        decoder: of video files, see `VideoFile`.
        cache_dir: where indices of images are kept.

    Raises:
        UserError: there is nothing, or an archive is damaged.
    """
    if place == VIDEOS:
        return VideoFiles(decoder)
    return FrameFolders(open_images(place, cache_dir))


def open_flow(
    place: str, frames: FrameStore | None, settings: FlowSettings | None, cache_dir: str | None
) -> FlowStore:
    """Open where flow lies.

    Args:
        place: a folder of JPEG images, a .zip or .zip.001, or a folder of zips; or "on_the_fly".
        frames: what flow is computed from, if it is.
        settings: how it is computed, if it is.
        cache_dir: where indices of images are kept.

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
    return FlowFolders(open_images(place, cache_dir))
