"""A look at one video: can its frames and its flow be decoded, how many and how large are they?"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np

from src.data.dataset import COUNT_TOLERANCE
from src.data.image_archives import ArchiveImages, ArchiveTree
from src.data.image_folders import FolderImages
from src.data.image_names import NUMBERED
from src.data.images import Images, ImageTree, JoinedTree
from src.data.library import FlowFolders, FlowLibrary, FrameFolders, RGBLibrary, VideoFiles
from src.data.sources import Size
from src.data.splits import Video
from src.data.video_file import VideoFile, open_container
from src.errors import UserError

VERSION = 1  # of what is looked at: raise it when a kept look would now be another
Modality = Literal["rgb", "flow"]
_JPEG_END = b"\xff\xd9"
_PADDING = 64  # bytes that some writers add after the end


@dataclass(frozen=True)
class Look:
    """What was seen of a video's frames or of its flow.

    Args:
        count: frames or fields.
        size: height and width, of the first.
        fps: frames per second, 0 where nobody knows.
        decoder: what read it.
        fingerprint: equal for equal content; "" where there is none.
        problems: the first instance of each problem, by its code without "rgb_" or "flow_".
    """

    count: int = 0
    size: Size = (0, 0)
    fps: float = 0.0
    decoder: str = ""
    fingerprint: str = ""
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A video, as a library has found it, and which of its two sides to look at."""

    modality: Modality
    video: Video


@dataclass
class Inspector:
    """Looks at videos of two libraries; goes to worker processes.

    Args:
        rgb: where frames lie.
        flow: where flow lies.
        full: decode everything; else the first, the middle and the last image.
    """

    rgb: RGBLibrary | None
    flow: FlowLibrary | None
    full: bool

    def __post_init__(self) -> None:
        self._starts: dict[Path, list[int]] = {}

    def __call__(self, job: Job) -> Look:
        """Look at one video; what is wrong with it is in the result, nothing is raised for it."""
        cv2.setNumThreads(1)  # a process per core already
        if job.modality == "rgb" and isinstance(self.rgb, VideoFiles):
            return look_at_file(job.video.path, self.rgb.decoder, self.full)
        tree, parts = self.images(job)
        return look_at_images(parts, self.full, lambda images: self._beyond(tree, images))

    def identity(self, job: Job) -> list[Any]:
        """What a look depends on: while it stays the same, the look need not be repeated."""
        if job.modality == "rgb" and isinstance(self.rgb, VideoFiles):
            return [VERSION, *_file_identity(job.video.path), self.rgb.decoder]
        return [VERSION, *(_identity(part) for part in self.images(job)[1].values())]

    def images(self, job: Job) -> tuple[ImageTree, dict[str, Images]]:
        """The images of a video by component, and the tree that they are in."""
        library = self.rgb if job.modality == "rgb" else self.flow
        assert isinstance(library, FrameFolders | FlowFolders)
        components = ("rgb",) if job.modality == "rgb" else ("u", "v")
        found = {c: library.tree.images(c, job.video.name) for c in components}
        return library.tree, {c: images for c, images in found.items() if images is not None}

    def _beyond(self, tree: ImageTree, images: Images) -> int:
        """Images that follow a gap in the numbers: a listing counts up to the first gap."""
        if isinstance(images, FolderImages):
            matches = map(NUMBERED.fullmatch, os.listdir(images.folder))
            return sum(m["prefix"] == images.prefix for m in matches if m) - len(images)
        assert isinstance(images, ArchiveImages)
        # The rows of a video end where those of another begin.
        if images.archive.path not in self._starts:
            self._starts[images.archive.path] = sorted(_starts(tree, images.archive.path))
        starts, end = self._starts[images.archive.path], images.start + images.count
        return starts[bisect_left(starts, end)] - end


def _starts(tree: ImageTree, archive: Path) -> Iterable[int]:
    if isinstance(tree, JoinedTree):
        tree = next(one for one in tree.trees if one.root == archive)
    assert isinstance(tree, ArchiveTree)
    for component in ("rgb", "u", "v"):
        for name in tree.videos(component):
            images = tree.images(component, name)
            assert images is not None
            yield images.start
            rows = len(images.rows)
    yield rows


def _file_identity(file: Path) -> list[Any]:
    about = file.stat()
    return [os.path.abspath(file), about.st_size, about.st_mtime_ns]


def _identity(images: Images) -> list[Any]:
    if isinstance(images, FolderImages):
        # A file written over in place leaves its folder's time as it was.
        changed = os.stat(images.folder).st_mtime_ns
        return [os.path.abspath(images.where(0)), changed, len(images)]
    assert isinstance(images, ArchiveImages)
    parts = [_file_identity(part) for part in images.archive.parts]
    return [parts, images.name, images.start, len(images)]


def look_at_file(path: Path, decoder: str, full: bool) -> Look:
    """Look at a video file.

    Args:
        path: the file.
        decoder: see `VideoFile`.
        full: decode every frame; else the first, the middle and the last.
    """
    if not path.stat().st_size:
        return Look(problems={"empty": f"{path} has no content"})
    with path.open("rb") as file:
        fingerprint = file_digest(file, _digest).hexdigest()
    stated, there = _packets(path)
    if stated - there > COUNT_TOLERANCE:
        reason = f"{path} has {there} of the {stated} frames that it states"
        return Look(fingerprint=fingerprint, problems={"truncated": reason})
    try:
        video = VideoFile(path, decoder)
        sizes = [image.shape[:2] for image in video.rgb(_chosen(video.num_frames, full))]
    except UserError as error:
        return Look(fingerprint=fingerprint, problems={"broken": str(error)})
    problems = _sizes_problem(str(path), sizes)
    return Look(video.num_frames, sizes[0], video.fps, video.decoder, fingerprint, problems)


def _packets(path: Path) -> tuple[int, int]:
    """Frames that the container states, 0 if it does not, and those that are in it."""
    try:
        with open_container(str(path)) as container:
            stream = container.streams.best("video")
            if stream is None or not stream.frames:
                return 0, 0
            # The last packet is a mark of the end.
            return stream.frames, sum(packet.dts is not None for packet in container.demux(stream))
    except (av.FFmpegError, ValueError):
        return 0, 0  # another library read it


def look_at_images(
    parts: Mapping[str, Images], full: bool, beyond: Callable[[Images], int]
) -> Look:
    """Look at the images of a video: its frames, or u and v of its flow.

    Args:
        parts: its images by component.
        full: decode every image; else the first, the middle and the last.
        beyond: how many images follow a gap in the numbers.
    """
    problems: dict[str, str] = {}
    digest = _digest()
    sizes: dict[str, list[Size]] = {}
    for component, images in parts.items():
        count = len(images)
        sizes[component] = []
        digest.update(f"{component} {count}".encode())
        sample = _chosen(count, full=False)
        for index in _chosen(count, full):
            data, problem = _read(images, index)
            if problem:
                problems.setdefault(*problem)
            if index in sample:
                digest.update(data)
            size = _decoded_size(data, component)
            if size:
                sizes[component].append(size)
            elif not problem:
                problems.setdefault("broken", f"{images.where(index)} cannot be decoded")
        first = images.first if isinstance(images, FolderImages) else 1
        if first > 1:
            problems.setdefault("gap", f"{images.where(0)} is the first image")
        after = beyond(images)
        if after:
            problems.setdefault("gap", f"{after} images after a gap at {images.where(count - 1)}")
    problems |= _parts_problem(parts, sizes)
    first_part = next(iter(parts))
    if not problems.keys() & {"uv"}:
        where = parts[first_part].where(0)
        problems |= _sizes_problem(where, [size for part in sizes.values() for size in part])
    first_size = (sizes[first_part] or [(0, 0)])[0]
    return Look(len(parts[first_part]), first_size, 0.0, "jpeg", digest.hexdigest(), problems)


def _read(images: Images, index: int) -> tuple[bytes, tuple[str, str] | None]:
    """A file's content, and what is wrong with it as a file."""
    try:
        data = images.read(index)
    except UserError as error:
        return b"", ("broken", str(error))
    if not data:
        return b"", ("empty", f"{images.where(index)} has no content")
    if _JPEG_END not in data[-_PADDING:]:  # OpenCV would fill up with grey, without a word
        return data, ("truncated", f"{images.where(index)} breaks off")
    return data, None


def _decoded_size(data: bytes, component: str) -> Size | None:
    """Height and width of an image that can be decoded."""
    flags = cv2.IMREAD_COLOR_RGB if component == "rgb" else cv2.IMREAD_GRAYSCALE
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    return None if image is None else image.shape[:2]


def _parts_problem(
    parts: Mapping[str, Images], sizes: Mapping[str, Sequence[Size]]
) -> dict[str, str]:
    if "rgb" in parts:
        return {}
    counts = [len(parts.get(component, ())) for component in "uv"]
    if counts[0] != counts[1]:
        return {"uv": f"{counts[0]} images of u, {counts[1]} of v"}
    if any(u != v for u, v in zip(sizes["u"], sizes["v"], strict=False)):
        return {"uv": f"u of {size_text(sizes['u'][0])}, v of {size_text(sizes['v'][0])}"}
    return {}


def _sizes_problem(where: str, sizes: Sequence[Size]) -> dict[str, str]:
    different = list(dict.fromkeys(sizes))
    if len(different) < 2:
        return {}
    return {"sizes": f"{where}: {', '.join(size_text(size) for size in different)}"}


def size_text(size: Size) -> str:
    """A size as people write it: width x height."""
    return f"{size[1]}x{size[0]}"


def _chosen(count: int, full: bool) -> Sequence[int]:
    return range(count) if full else sorted({0, count // 2, count - 1})


def _digest() -> Any:
    return blake2b(digest_size=16)
