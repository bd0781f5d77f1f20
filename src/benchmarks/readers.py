"""Clips per second out of JPEG images, archives and video files, on one core.

The baselines are mmaction2's training pipelines where it is installed, and the same calls by hand.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from src.benchmarks.fixtures import Fixtures
from src.benchmarks.harness import Candidate, Measurement, measure
from src.data.dataset import read_view
from src.data.sampling import valid_range
from src.data.transforms import CornerJitterCrop, CropResizeFlip
from src.media.images import FlowImages, FrameImages, open_images
from src.media.sources import Size, Uint8, size_at
from src.media.video_file import VideoFile

FRAMES, STACK, TAU = 5, 10, 10  # at this tau stacks of 10 do not overlap: all images are different
CROP, SHORT_SIDE = 224, 256
Pipeline = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Clip:
    """One clip to read, for all candidates alike.

    Args:
        video: its name.
        frames: RGB frames, from 0.
        fields: flow fields, from 0, `STACK` for each frame.
        seed: of the crop.
    """

    video: str
    frames: tuple[int, ...]
    fields: tuple[int, ...]
    seed: int


class FixedView:
    """A view of chosen frames, cropped at random as in training."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def frames(self, first: int, last: int, rng: np.random.Generator) -> np.ndarray:
        """The clip's frames, whatever the video has."""
        return np.array(self._clip.frames)

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


def _each(clips: list[Clip], read: Callable[[Clip], object]) -> Callable[[], int]:
    def run() -> int:
        for clip in clips:
            read(clip)
        return len(clips)

    return run


def loader(fixtures: Fixtures, clips: int, rounds: int) -> Measurement:
    """Two-stream clips (5 RGB frames, 5 x 10 flow fields, 224 x 224) from JPEG images."""
    root, chosen = fixtures.root, choose_clips(fixtures, clips)
    rawframes = root / "rawframes"
    contents = [image for clip in chosen for image in _jpegs(rawframes, clip)]

    def decode_only() -> int:
        for data, flags in contents:
            cv2.imdecode(data, flags)
        return clips

    def ours(rgb: Path, flow: Path) -> Callable[[], int]:
        frames, fields = open_images(rgb), open_images(flow)

        def read(clip: Clip) -> object:
            rng = np.random.default_rng(clip.seed)
            sources = FrameImages(frames, clip.video), FlowImages(fields, clip.video)
            return read_view(*sources, FixedView(clip), STACK, rng, clip.video)

        return _each(chosen, read)

    mmaction = _mmaction2()
    baselines = (
        [Candidate("mmaction2", _each(chosen, mmaction.images(rawframes)))] if mmaction else []
    )
    candidates = [
        *baselines,
        Candidate("the same calls by hand", _each(chosen, lambda c: by_hand_images(rawframes, c))),
        Candidate("decode only", decode_only, "the limit: the same JPEGs from memory"),
        Candidate("ours, folders", ours(fixtures.rgb, fixtures.flow), "u/ v/ layout"),
        Candidate("ours, img_ folders", ours(rawframes, rawframes), "flow_x_ layout"),
        Candidate("ours, zip", ours(root / "jpegs_256.zip", root / "flow.zip")),
    ]
    title = f"loader: {FRAMES} RGB frames + {FRAMES} x {STACK} flow fields to {CROP} x {CROP}"
    return measure(title, "clips", candidates, rounds, [_about(fixtures)])


def decode(fixtures: Fixtures, clips: int, rounds: int) -> Iterator[Measurement]:
    """Clips of 5 RGB frames out of video files of both kinds."""
    chosen, mmaction = choose_clips(fixtures, clips), _mmaction2()
    for kind, about in (("avi", "MPEG-4, a single key frame"), ("mp4", "H.264")):
        if not (fixtures.root / kind).is_dir():
            continue

        def read_with(read: Callable[[Path, Clip], object], kind: str = kind) -> Callable[[], int]:
            return _each(chosen, lambda clip: read(fixtures.video(kind, clip.video), clip))

        def ours(decoder: str) -> Callable[[Path, Clip], object]:
            def read(path: Path, clip: Clip) -> object:
                video, rng = VideoFile(path, decoder), np.random.default_rng(clip.seed)
                return read_view(video, None, FixedView(clip), STACK, rng, clip.video)

            return read

        candidates = [Candidate("ours, decoder=auto", read_with(ours("auto")))]
        if find_spec("decord"):
            candidates.insert(0, Candidate("decord by hand", read_with(by_hand_video)))
            candidates.append(Candidate("ours, decoder=decord", read_with(ours("decord"))))
        if mmaction:
            candidates.insert(0, Candidate("mmaction2", read_with(mmaction.frames)))
        title = f"decode: {FRAMES} RGB frames to {CROP} x {CROP} from .{kind} ({about})"
        yield measure(title, "clips", candidates, rounds, [_about(fixtures)])


def _about(fixtures: Fixtures) -> str:
    frames = sum(fixtures.frames.values())
    return f"{len(fixtures.frames)} videos, {frames} frames, from {fixtures.source}; one core"


def _jpegs(rawframes: Path, clip: Clip) -> Iterator[tuple[Uint8, int]]:
    """The contents of a clip's files, and how OpenCV is to decode them."""
    names = [(f"img_{i + 1:05d}.jpg", cv2.IMREAD_COLOR) for i in clip.frames]
    for i in dict.fromkeys(clip.fields):  # each once, also where stacks overlap
        names += [(f"flow_{axis}_{i + 1:05d}.jpg", cv2.IMREAD_GRAYSCALE) for axis in "xy"]
    for name, flags in names:
        yield np.frombuffer((rawframes / clip.video / name).read_bytes(), np.uint8), flags


def by_hand_images(rawframes: Path, clip: Clip) -> tuple[Uint8, Uint8]:
    """A clip by plain OpenCV calls in mmaction2's order: decode all, resize all, crop, resize."""

    def read(name: str, flags: int) -> Uint8:
        data = (rawframes / clip.video / name).read_bytes()
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)

    frames = [
        cv2.cvtColor(read(f"img_{i + 1:05d}.jpg", cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        for i in clip.frames
    ]
    fields = [
        np.dstack([read(f"flow_{axis}_{i + 1:05d}.jpg", cv2.IMREAD_GRAYSCALE) for axis in "xy"])
        for i in clip.fields
    ]
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


@dataclass(frozen=True)
class MMAction2:
    """mmaction2's training pipelines, as its configs compose them: of images, of video files."""

    from_images: Pipeline
    from_video: Pipeline

    def images(self, rawframes: Path) -> Callable[[Clip], None]:
        """Reads two-stream clips, which takes the pipeline twice."""

        def read(clip: Clip) -> None:
            common = {"frame_dir": str(rawframes / clip.video), "label": 0}
            common |= {"num_clips": len(clip.frames)}
            rgb = {
                "modality": "RGB",
                "filename_tmpl": "img_{:05}.jpg",
                "frame_inds": np.array(clip.frames) + 1,
                "clip_len": 1,
            }
            flow = {
                "modality": "Flow",
                "filename_tmpl": "flow_{}_{:05}.jpg",
                "frame_inds": np.array(clip.fields) + 1,
                "clip_len": STACK,
            }
            self.from_images(common | rgb)
            self.from_images(common | flow)

        return read

    def frames(self, path: Path, clip: Clip) -> None:
        """Read the frames of a video."""
        chosen = {"frame_inds": np.array(clip.frames), "clip_len": FRAMES, "num_clips": 1}
        self.from_video({"filename": str(path), "label": 0, "modality": "RGB", **chosen})


def _mmaction2() -> MMAction2 | None:
    """The pipelines, None where mmaction2 is not installed."""
    try:
        from mmaction.datasets import transforms
    except ImportError:
        return None

    def pipeline(layout: str, *decoding: Any) -> Pipeline:
        steps = [
            *decoding,
            transforms.Resize(scale=(-1, SHORT_SIDE)),
            transforms.RandomResizedCrop(),
            transforms.Resize(scale=(CROP, CROP), keep_ratio=False),
            transforms.Flip(flip_ratio=0.5),
            transforms.FormatShape(input_format=layout),
            transforms.PackActionInputs(),
        ]

        def run(results: dict[str, Any]) -> dict[str, Any]:
            for step in steps:
                results = step(results)
            return results

        return run

    video = transforms.DecordInit(num_threads=1), transforms.DecordDecode()
    return MMAction2(pipeline("NCHW", transforms.RawFrameDecode()), pipeline("NCTHW", *video))
