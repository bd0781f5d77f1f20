"""A look at one video: can its frames and its flow be decoded, how many and how large are they?"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b, file_digest
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from src.data.stores import FlowStore, FrameStore, ImageStore, VideoFiles
from src.data.verification.manifest import Modality, VideoCheck, size_text
from src.data.videos import Video
from src.extraction.provenance import source_of
from src.media.image_index import file_state
from src.media.images import Images
from src.media.sources import Size
from src.media.video_file import VideoFile
from src.utils.errors import UserError

_JPEG_BEGIN, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PADDING = 64  # bytes that some writers add after the end
Job = tuple[Modality, Video]  # which side to look at of a video, as a store has found it
Stores = dict[Modality, FrameStore | FlowStore]  # those that are there


@dataclass
class VideoChecker:
    """Looks at videos of a dataset's stores; goes to worker processes.

    Args:
        stores: where frames and flow lie.
        full: decode everything; else the first, the middle and the last image.
    """

    stores: Stores
    full: bool

    def __call__(self, job: Job) -> VideoCheck:
        """Look at one video; what is wrong with it is in the result, nothing is raised for it."""
        cv2.setNumThreads(1)  # a process per core already
        modality, video = job
        store = self.stores[modality]
        if isinstance(store, VideoFiles):
            check = check_file(video.path, store.decoder, self.full)
        else:
            check = check_images(self._images(job), self.full)
        problems = {f"{modality}_{code}": what for code, what in check.problems.items()}
        return replace(check, problems=problems, full=self.full)

    def state(self, job: Job) -> str:
        """What a check depends on: while it is the same, the check need not be repeated."""
        modality, video = job
        store = self.stores[modality]
        try:
            if isinstance(store, VideoFiles):
                state = [*file_state(video.path), store.decoder]
            else:
                state = [images.state() for images in self._images(job).values()]
        except OSError:  # what is not there, such as a link's file
            return ""
        return blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()

    def _images(self, job: Job) -> dict[str, Images]:
        """The images of a video by component."""
        modality, video = job
        store = self.stores[modality]
        assert isinstance(store, ImageStore)
        images = {part: store.index.images(part, video.name) for part in store.components}
        return {part: of_part for part, of_part in images.items() if of_part is not None}


def check_file(path: Path, decoder: str, full: bool) -> VideoCheck:
    """Look at a video file: at every frame if `full`, else the first, the middle and the last."""
    if not path.stat().st_size:
        return VideoCheck(problems={"empty": f"{path} has no content"})
    with path.open("rb") as file:
        fingerprint = file_digest(file, _digest).hexdigest()
    video = None
    try:
        video = VideoFile(path, decoder)
        sizes = [image.shape[:2] for image in video.rgb(_chosen(video.num_frames, full))]
    except UserError as error:
        code = "truncated" if video and video.truncated else "broken"
        return VideoCheck(fingerprint=fingerprint, problems={code: str(error)})
    source = source_of(path)
    problems = _sizes_problem(str(path), sizes)
    if video.stated and video.stated != video.num_frames:
        problems["stated"] = f"{path} states {video.stated} frames, {video.num_frames} are shown"
    return VideoCheck(
        video.num_frames, sizes[0], video.fps, video.decoder, fingerprint, source, problems
    )


def check_images(parts: Mapping[str, Images], full: bool) -> VideoCheck:
    """Look at the images of a video, by component: its frames, or u and v of its flow."""
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
            if index in sample:
                digest.update(data)
            if size := _decoded_size(data, component):
                sizes[component].append(size)
            elif not problem:
                problem = ("broken", f"{images.where(index)} cannot be decoded")
            if problem:
                problems.setdefault(*problem)
        if images.first > 1:
            problems.setdefault("gap", f"{images.where(0)} is the first image")
        if images.beyond:
            why = "after it a number is missing, there twice or of another ending"
            problems.setdefault("gap", f"{images.where(count - 1)}: {why}")
    problems |= _parts_problem(parts, sizes)
    part, images = next(iter(parts.items()))
    if "uv" not in problems:
        problems |= _sizes_problem(images.where(0), list(chain.from_iterable(sizes.values())))
    first_size = (sizes[part] or [(0, 0)])[0]
    return VideoCheck(
        len(images), first_size, decoder="jpeg", fingerprint=digest.hexdigest(), problems=problems
    )


def _read(images: Images, index: int) -> tuple[bytes, tuple[str, str] | None]:
    """A file's content, and what is wrong with it as a file."""
    try:
        data = images.read(index)
    except UserError as error:
        return b"", ("broken", str(error))
    if not data:
        return b"", ("empty", f"{images.where(index)} has no content")
    # OpenCV would fill up with grey, without a word.
    if data.startswith(_JPEG_BEGIN) and _JPEG_END not in data[-_PADDING:]:
        return data, ("truncated", f"{images.where(index)} breaks off")
    return data, None


def _decoded_size(data: bytes, component: str) -> Size | None:
    """Height and width of an image that can be decoded."""
    flags = cv2.IMREAD_COLOR_RGB if component == "rgb" else cv2.IMREAD_GRAYSCALE
    image = None
    with suppress(cv2.error):  # more pixels than are decoded
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


def _chosen(count: int, full: bool) -> Sequence[int]:
    return range(count) if full else sorted({0, count // 2, count - 1})


def _digest() -> Any:
    return blake2b(digest_size=16)
