"""What our readers are compared with: mmaction2's pipelines, and the same calls by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from src.data.sources import Uint8

try:
    import decord
except ImportError:
    decord = None
CROP = 224
SHORT_SIDE = 256


@dataclass(frozen=True)
class Draw:
    """One clip to read, for all contenders alike.

    Args:
        video: its name.
        frames: RGB frames, from 0.
        fields: flow fields, from 0, `stack` for each frame.
        seed: of the crop.
    """

    video: str
    frames: tuple[int, ...]
    fields: tuple[int, ...]
    seed: int


def by_hand_images(rawframes: Path, draw: Draw) -> tuple[Uint8, Uint8]:
    """A clip by plain OpenCV calls in mmaction2's order: decode all, resize all, crop, resize."""
    folder = rawframes / draw.video
    frames = [
        cv2.cvtColor(_read(folder / f"img_{i + 1:05d}.jpg", cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        for i in draw.frames
    ]
    fields = [
        np.stack(
            [_read(folder / f"flow_{axis}_{i + 1:05d}.jpg", cv2.IMREAD_GRAYSCALE) for axis in "xy"],
            axis=-1,
        )
        for i in draw.fields
    ]
    rng = np.random.default_rng(draw.seed)
    rgb, flow = _augment(frames, rng), _augment(fields, rng)
    if rng.random() < 0.5:
        rgb, flow = np.flip(rgb, axis=2), np.flip(flow, axis=2)
        flow = np.concatenate([255 - flow[..., :1], flow[..., 1:]], axis=-1)
    return np.ascontiguousarray(rgb.transpose(3, 0, 1, 2)), np.ascontiguousarray(
        flow.transpose(0, 3, 1, 2)
    )


def by_hand_video(path: Path, draw: Draw) -> Uint8:
    """Frames of a video by plain decord calls, cropped as above."""
    reader = decord.VideoReader(str(path), num_threads=1)
    frames = list(reader.get_batch(list(draw.frames)).asnumpy())
    rng = np.random.default_rng(draw.seed)
    rgb = _augment(frames, rng)
    if rng.random() < 0.5:
        rgb = np.flip(rgb, axis=2)
    return np.ascontiguousarray(rgb.transpose(3, 0, 1, 2))


def _read(file: Path, flags: int) -> Uint8:
    return cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), flags)


def _augment(images: Sequence[Uint8], rng: np.random.Generator) -> Uint8:
    height, width = images[0].shape[:2]
    scale = SHORT_SIDE / min(height, width)
    size = round(width * scale), round(height * scale)
    images = [cv2.resize(image, size) for image in images]
    sides = rng.integers(CROP * 3 // 4, min(images[0].shape[:2]), size=2)
    top, left = (int(rng.integers(0, images[0].shape[axis] - sides[axis])) for axis in (0, 1))
    images = [image[top : top + sides[0], left : left + sides[1]] for image in images]
    return np.stack([cv2.resize(image, (CROP, CROP)) for image in images])


Pipeline = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class MMAction2:
    """mmaction2's training pipelines: RGB and flow images, and video files."""

    rgb: Pipeline
    flow: Pipeline
    video: Pipeline

    def images(self, rawframes: Path, draw: Draw) -> None:
        """Read a two-stream clip, which takes it two pipelines."""
        common = {"frame_dir": str(rawframes / draw.video), "label": 0, "clip_len": 1}
        self.rgb(
            common
            | {
                "modality": "RGB",
                "filename_tmpl": "img_{:05}.jpg",
                "frame_inds": np.array(draw.frames) + 1,
                "num_clips": len(draw.frames),
            }
        )
        self.flow(
            common
            | {
                "modality": "Flow",
                "filename_tmpl": "flow_{}_{:05}.jpg",
                "frame_inds": np.array(draw.fields) + 1,
                "clip_len": len(draw.fields) // len(draw.frames),
                "num_clips": len(draw.frames),
            }
        )

    def frames(self, path: Path, draw: Draw) -> None:
        """Read the frames of a video."""
        self.video(
            {
                "filename": str(path),
                "label": 0,
                "modality": "RGB",
                "frame_inds": np.array(draw.frames),
                "clip_len": len(draw.frames),
                "num_clips": 1,
            }
        )


def mmaction2() -> MMAction2 | None:
    """mmaction2's pipelines as its configs compose them, None where it is not installed."""
    try:
        from mmaction.datasets import transforms
    except ImportError:
        return None

    def compose(*steps: Any) -> Pipeline:
        def run(results: dict[str, Any]) -> dict[str, Any]:
            for step in steps:
                results = step(results)
            return results

        return run

    def augment() -> list[Any]:
        return [
            transforms.Resize(scale=(-1, SHORT_SIDE)),
            transforms.RandomResizedCrop(),
            transforms.Resize(scale=(CROP, CROP), keep_ratio=False),
            transforms.Flip(flip_ratio=0.5),
        ]

    def end(layout: str) -> list[Any]:
        return [transforms.FormatShape(input_format=layout), transforms.PackActionInputs()]

    return MMAction2(
        compose(transforms.RawFrameDecode(), *augment(), *end("NCHW")),
        compose(transforms.RawFrameDecode(), *augment(), *end("NCHW")),
        compose(
            transforms.DecordInit(num_threads=1),
            transforms.DecordDecode(),
            *augment(),
            *end("NCTHW"),
        ),
    )
