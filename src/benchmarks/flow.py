"""Optical flow: frames per second of each algorithm, and how near ours comes to OpenCV's TV-L1."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.benchmarks.fixtures import Fixtures
from src.benchmarks.harness import Candidate, Measurement, measure
from src.flow.algorithm import FlowAlgorithm, Frames, prepare, quantize
from src.flow.settings import FlowSettings
from src.media.images import encode_jpeg
from src.media.video_file import VideoFile

BORDER = 16  # pixels ignored where endpoints are compared: what enters an image has no past


def flow(
    fixtures: Fixtures, pairs: int, rounds: int, device: str | None, short_side: int = 256
) -> Measurement:
    """Frames per second of all algorithms on the same pairs of frames, spread evenly over a video.

    Those that run on a device take a GPU if there is one and none is named.
    """
    name, frames = next(iter(fixtures.frames.items()))
    firsts = np.linspace(0, frames - 2, pairs).astype(int)
    video = VideoFile(fixtures.video("avi", name))
    images = [pair for i in firsts.tolist() for pair in video.rgb([i, i + 1])]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    def inputs(algorithm: FlowAlgorithm) -> tuple[Frames, Frames]:
        prepared = np.stack([prepare(image, short_side, algorithm.color) for image in images])
        return prepared[::2], prepared[1::2]

    def candidate(name: str, where: str, note: str = "", **parameters: Any) -> Candidate:
        algorithm = FlowSettings(name, parameters).make(where)
        first, second = inputs(algorithm)
        shown = f"{name} on {where}" if where != "cpu" else name
        return Candidate(shown, lambda: len(algorithm.fields(first, second)), note)

    tvl1, tvl1_torch = FlowSettings("tvl1").make(), FlowSettings("tvl1_torch").make(device)
    reference = tvl1.fields(*inputs(tvl1))  # (N, H, W, 2)
    inside = np.s_[:, BORDER:-BORDER, BORDER:-BORDER]
    difference = (tvl1_torch.fields(*inputs(tvl1_torch)) - reference)[inside]
    error = float(np.linalg.norm(difference, axis=-1).mean())
    quantized = quantize(reference, 20.0)

    def write() -> int:
        with tempfile.TemporaryDirectory() as folder:
            for number, field in enumerate(quantized):
                for channel in range(2):
                    file = Path(folder, f"{number}_{channel}.jpg")
                    file.write_bytes(encode_jpeg(field[..., channel]))
        return len(quantized)

    candidates = [
        candidate("tvl1", "cpu", "OpenCV's"),
        candidate("tvl1_torch", device, f"{error:.4f} px from tvl1 on average"),
        candidate("dis", "cpu"),
        candidate("raft", device, "random weights: its speed only", weights=None),
        Candidate("JPEG files, u and v", write, "of fields that are there already"),
    ]
    height, width = reference.shape[1:3]
    note = f"{pairs} pairs of frames at {width} x {height}, {fixtures.source}"
    return measure("flow: frames per second", "frames", candidates, rounds, [note])
