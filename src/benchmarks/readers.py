"""Clips per second out of JPEG images, archives and video files, on one core.

The baselines are the same calls by hand, in the order of mmaction2's training pipelines.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from src.benchmarks.fixtures import Fixtures
from src.benchmarks.harness import Candidate, Measurement, measure
from src.data.dataset import read_view
from src.data.sampling import valid_range
from src.data.transforms import CornerJitterCrop, CropResizeFlip
from src.media.images import FlowImages, FrameImages, ImageIndex, open_images
from src.media.sources import Size, Uint8, size_at
from src.media.video_file import VideoFile

FRAMES, STACK, TAU = 5, 10, 10  # at this tau stacks of 10 do not overlap: all images are different
CROP, SHORT_SIDE = 224, 256


class Clip(NamedTuple):
    """One clip to read, for all candidates alike; frames and fields count from 0."""

    video: str
    frames: tuple[int, ...]  # of RGB
    fields: tuple[int, ...]  # of flow, `STACK` for each frame
    seed: int  # of the crop


class FixedView(NamedTuple):
    """A view of chosen frames, cropped at random as in training."""

    clip: Clip

    def frames(self, first: int, last: int, rng: np.random.Generator) -> np.ndarray:
        """The clip's frames, whatever the video has."""
        return np.array(self.clip.frames)

    def geometry(self, frame: Size, rng: np.random.Generator) -> CropResizeFlip:
        """Corner jitter and a flip."""
        box = CornerJitterCrop(CROP)(size_at(frame, SHORT_SIDE), rng)
        return CropResizeFlip(box, (CROP, CROP), bool(rng.random() < 0.5))


def choose_clips(fixtures: Fixtures, count: int) -> list[Clip]:
    """Clips of all videos in turn, with complete stacks around their frames."""
    rng = np.random.default_rng(0)
    clips, names = [], list(fixtures.frames)
    for number in range(count):
        name = names[number % len(names)]
        first, last = valid_range(fixtures.frames[name], fixtures.frames[name] - 1, STACK)
        tau = min(TAU, (last - first) // (FRAMES - 1))
        start = int(rng.integers(first, last - tau * (FRAMES - 1), endpoint=True))
        frames = np.arange(FRAMES) * tau + start
        fields = (frames[:, None] + np.arange(-STACK // 2, STACK // 2)).ravel()
        fields = np.clip(fields, 0, fixtures.frames[name] - 2)
        clips.append(Clip(name, tuple(frames.tolist()), tuple(fields.tolist()), number))
    return clips


def _each(items: Sequence[tuple[Any, ...]], read: Callable[..., object]) -> Callable[[], int]:
    def run() -> int:
        for item in items:
            read(*item)
        return len(items)

    return run


def loader(fixtures: Fixtures, clips: int, rounds: int) -> Measurement:
    """Two-stream clips (5 RGB frames, 5 x 10 flow fields, 224 x 224) from JPEG images."""
    root, chosen = fixtures.root, choose_clips(fixtures, clips)
    rawframes = root / "rawframes"
    by_folder = [(rawframes, clip) for clip in chosen]
    # Each file once, also where stacks overlap.
    files = [(clip, *file) for clip in chosen for file in dict.fromkeys(_files(clip))]
    contents = [(_content(rawframes, clip, name), flags) for clip, name, flags in files]

    def decode_only() -> int:
        for data, flags in contents:
            cv2.imdecode(data, flags)
        return clips

    def through_stores(rgb: Path, flow: Path) -> Callable[[], int]:
        frames, fields = open_images(rgb), open_images(flow)
        return _each([(frames, fields, clip) for clip in chosen], _our_images)

    candidates = [
        Candidate("the same calls by hand", _each(by_folder, by_hand_images)),
        Candidate("decode only", decode_only, "the limit: the same JPEGs from memory"),
        Candidate("ours, folders", through_stores(fixtures.rgb, fixtures.flow), "u/ v/ layout"),
        Candidate("ours, img_ folders", through_stores(rawframes, rawframes), "flow_x_ layout"),
        Candidate("ours, zip", through_stores(root / "jpegs_256.zip", root / "flow.zip")),
    ]
    title = f"loader: {FRAMES} RGB frames + {FRAMES} x {STACK} flow fields to {CROP} x {CROP}"
    return measure(title, "clips", candidates, rounds, [_about(fixtures)])


def _our_images(frames: ImageIndex, fields: ImageIndex, clip: Clip) -> object:
    rng = np.random.default_rng(clip.seed)
    sources = FrameImages(frames, clip.video), FlowImages(fields, clip.video)
    return read_view(*sources, FixedView(clip), STACK, rng, clip.video)


def decode(fixtures: Fixtures, clips: int, rounds: int) -> Iterator[Measurement]:
    """Clips of 5 RGB frames out of video files of both kinds."""
    chosen, decord = choose_clips(fixtures, clips), find_spec("decord")
    readers: dict[str, Callable[[Path, Clip], object]] = {}
    if decord:
        readers["decord by hand"] = by_hand_video
    readers["ours, decoder=auto"] = partial(_our_video, "auto")
    if decord:
        readers["ours, decoder=decord"] = partial(_our_video, "decord")
    for kind, about in (("avi", "MPEG-4, a single key frame"), ("mp4", "H.264")):
        if not (fixtures.root / kind).is_dir():
            continue
        by_file = [(fixtures.video(kind, clip.video), clip) for clip in chosen]
        candidates = [Candidate(name, _each(by_file, read)) for name, read in readers.items()]
        title = f"decode: {FRAMES} RGB frames to {CROP} x {CROP} from .{kind} ({about})"
        yield measure(title, "clips", candidates, rounds, [_about(fixtures)])


def _our_video(decoder: str, path: Path, clip: Clip) -> object:
    video, rng = VideoFile(path, decoder), np.random.default_rng(clip.seed)
    return read_view(video, None, FixedView(clip), STACK, rng, clip.video)


def _about(fixtures: Fixtures) -> str:
    frames = sum(fixtures.frames.values())
    return f"{len(fixtures.frames)} videos, {frames} frames, from {fixtures.source}; one core"


def _files(clip: Clip) -> list[tuple[str, int]]:
    """Names of a clip's files in mmaction2's layout, and how OpenCV is to decode each."""
    frames = [(f"img_{i + 1:05d}.jpg", cv2.IMREAD_COLOR) for i in clip.frames]
    fields = [f"flow_{axis}_{i + 1:05d}.jpg" for i in clip.fields for axis in "xy"]
    return [*frames, *((name, cv2.IMREAD_GRAYSCALE) for name in fields)]


def _content(rawframes: Path, clip: Clip, name: str) -> Uint8:
    return np.frombuffer((rawframes / clip.video / name).read_bytes(), np.uint8)


def by_hand_images(rawframes: Path, clip: Clip) -> tuple[Uint8, Uint8]:
    """A clip by plain OpenCV calls in mmaction2's order: decode all, resize all, crop, resize."""
    images = [cv2.imdecode(_content(rawframes, clip, name), f) for name, f in _files(clip)]
    frames = [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images[:FRAMES]]
    fields = [np.dstack(images[i : i + 2]) for i in range(FRAMES, len(images), 2)]
    rng = np.random.default_rng(clip.seed)
    rgb, flow = _crop(frames, rng), _crop(fields, rng)
    if rng.random() < 0.5:
        rgb, flow = np.flip(rgb, axis=2), np.flip(flow, axis=2)
        flow = np.concatenate([255 - flow[..., :1], flow[..., 1:]], axis=-1)
    return (
        np.ascontiguousarray(rgb.transpose(3, 0, 1, 2)),  # (3, T, H, W)
        np.ascontiguousarray(flow.transpose(0, 3, 1, 2)),  # (T L, 2, H, W)
    )


def by_hand_video(path: Path, clip: Clip) -> Uint8:
    """Frames of a video by plain decord calls, cropped as above; (3, T, H, W)."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    rng = np.random.default_rng(clip.seed)
    rgb = _crop(list(reader.get_batch(list(clip.frames)).asnumpy()), rng)
    if rng.random() < 0.5:
        rgb = np.flip(rgb, axis=2)
    return np.ascontiguousarray(rgb.transpose(3, 0, 1, 2))


def _crop(images: Sequence[Uint8], rng: np.random.Generator) -> Uint8:
    height, width = images[0].shape[:2]
    scale = SHORT_SIDE / min(height, width)
    images = [cv2.resize(image, (round(width * scale), round(height * scale))) for image in images]
    sides = rng.integers(CROP * 3 // 4, min(images[0].shape[:2]), size=2)
    top, left = (int(rng.integers(0, images[0].shape[axis] - sides[axis])) for axis in (0, 1))
    images = [image[top : top + sides[0], left : left + sides[1]] for image in images]
    return np.stack([cv2.resize(image, (CROP, CROP)) for image in images])
