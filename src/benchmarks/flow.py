"""Optical flow: frames per second of each algorithm, and how near ours comes to OpenCV's TV-L1."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from src.benchmarks.harness import Contender, Measurement, measure
from src.benchmarks.material import Material, encode
from src.data.images import encode_jpeg
from src.data.sources import resize, size_at
from src.data.video_file import VideoFile
from src.flow.algorithms import FlowAlgorithm, Frames, make_algorithm
from src.flow.extract import extract_flow
from src.flow.quantise import quantise
from src.flow.settings import FlowSettings

SHORT_SIDE = 256
COPIES = 4  # of each video: a worker does whole videos, and some would have one more to do
BORDER = 16  # pixels left out where endpoints are compared: what enters an image has no past
# Of an H200, for the limit that is printed beside a measurement: bytes and float32 operations per
# second, from its data sheet. Other devices get no limit.
LIMITS = {"NVIDIA H200": (4.8e12, 67e12)}


def algorithms(
    material: Material,
    pairs: int,
    rounds: int,
    device: str | None,
    short_side: int = SHORT_SIDE,
) -> Measurement:
    """Frames per second of all algorithms on the same pairs of frames."""
    first, second = (_at(frames, short_side) for frames in _pairs(material, pairs))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    def contender(name: str, parameters: dict[str, object], where: str, note: str) -> Contender:
        made = make_algorithm(name, parameters, where)
        grey = _grey(first), _grey(second)
        frames = (first, second) if made.colour else grey

        def run() -> int:
            made.fields(*frames)
            return len(first)

        return Contender(f"{name} on {where}" if where != "cpu" else name, run, note)

    reference = make_algorithm("tvl1", {}).fields(_grey(first), _grey(second))
    ours = make_algorithm("tvl1_torch", {}, device)
    error = _endpoint_error(ours, _grey(first), _grey(second), reference)
    quantised = quantise(reference, 20.0)

    def write() -> int:
        with tempfile.TemporaryDirectory() as folder:
            for number, field in enumerate(quantised):
                for channel in range(2):
                    data = encode_jpeg(field[..., channel])
                    (Path(folder) / f"{number}_{channel}.jpg").write_bytes(data)
        return len(quantised)

    others = [
        contender("tvl1_torch", {}, device, f"{error:.4f} px from tvl1 on average"),
        contender("dis", {}, "cpu", ""),
        contender("farneback", {}, "cpu", ""),
        contender("raft", {"weights": None}, device, "random weights: its speed only"),
        Contender("JPEG files, u and v", write, "of fields that are there already"),
    ]
    remarks = [f"{pairs} pairs of frames at {first.shape[2]} x {first.shape[1]}, {material.source}"]
    remarks += _limit(device, first.shape[1], first.shape[2])
    return measure(
        "flow: frames per second",
        "frames",
        contender("tvl1", {}, "cpu", "OpenCV's"),
        others,
        rounds,
        remarks,
    )


def extraction(material: Material, rounds: int, algorithm: str, most: int) -> Measurement:
    """Frames per second of `extract_flow` with one and with two processes, JPEG files included.

    Args:
        material: its videos are extracted.
        rounds: of both.
        algorithm: of the flow, at its own parameters.
        most: frames of a video that are taken.
    """
    videos = [
        _beginning(material, name, most, copy) for name in material.frames for copy in range(COPIES)
    ]
    settings = FlowSettings(algorithm)
    frames = sum(VideoFile(video).num_frames for video in videos)

    def extract(workers: int) -> Callable[[], int]:
        def run() -> int:
            folder = Path(tempfile.mkdtemp())
            try:
                extract_flow(videos, folder, settings, workers=workers)
            finally:
                shutil.rmtree(folder)
            return frames

        return run

    return measure(
        f"extract_flow, {algorithm}",
        "frames",
        Contender("1 process", extract(1)),
        [Contender("2 processes", extract(2))],
        rounds,
        [f"{len(videos)} videos, {frames} frames, from {material.source}"],
    )


def _beginning(material: Material, name: str, frames: int, copy: int) -> Path:
    """The first frames of a video as a video."""
    images = np.stack(list(VideoFile(material.video("avi", name)).rgb(range(frames))))
    path = material.root / "beginnings" / f"{name}_{copy}.avi"
    encode(path, images, "mpeg4", {"qmin": "2", "qmax": "5"})
    return path


def _pairs(material: Material, count: int) -> tuple[Frames, Frames]:
    """Pairs of frames of one size, from all videos that have it, evenly spread."""
    by_size: dict[tuple[int, int], list[tuple[Frames, Frames]]] = {}
    for name, frames in material.frames.items():
        video = VideoFile(material.video("avi", name))
        for index in np.linspace(0, frames - 2, count).astype(int).tolist():
            pair = list(video.rgb([index, index + 1]))
            by_size.setdefault(video.size, []).append((pair[0], pair[1]))
    pairs = max(by_size.values(), key=len)
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).astype(int)]
    return np.stack([a for a, _ in chosen]), np.stack([b for _, b in chosen])


def _at(frames: Frames, short_side: int) -> Frames:
    return np.stack([resize(frame, size_at(frame.shape[:2], short_side)) for frame in frames])


def _grey(frames: Frames) -> Frames:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def _endpoint_error(
    algorithm: FlowAlgorithm, first: Frames, second: Frames, reference: np.ndarray
) -> float:
    inside = np.s_[:, BORDER:-BORDER, BORDER:-BORDER]
    difference = algorithm.fields(first, second)[inside] - reference[inside]
    return float(np.linalg.norm(difference, axis=-1).mean())


def _limit(device: str, height: int, width: int) -> list[str]:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    if name not in LIMITS:
        return []
    from src.flow.tvl1_torch import cost

    bytes_, operations = LIMITS[name]
    most, pair = cost(height, width), 1e9
    return [
        f"tvl1_torch, all iterations: {most.bytes / pair:.1f} GB moved and "
        f"{most.operations / pair:.1f} GFLOP a frame, so at most "
        f"{most.pairs_per_second(bytes_, operations):.0f} frames/s on {name} if nothing stays in a "
        "cache; pairs that converge early take less"
    ]
