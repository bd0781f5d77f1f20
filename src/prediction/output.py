"""Predictions: on the screen, as rows of a file, and drawn into a copy of the video."""

import csv
import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self, TextIO

import cv2
import numpy as np
import torch
from rich.console import Console

from src.media.frames_in_order import TimedFrame
from src.media.images import encode_jpeg
from src.media.sources import Uint8
from src.media.video_writer import VideoWriter
from src.plotting.clips import color_flow
from src.utils.console import table
from src.utils.files import csv_cells

SMALLEST = 240  # pixels of the smaller side: text is not legible on less
LARGEST = 4096  # pixels of the larger side that a small frame is enlarged to
TICKS = 30000  # of a second: frames of 24, 25, 29.97 and 60 per second lie on one
CRF = 20
Labels = Sequence[tuple[str, float]]  # class and probability, the most probable first
Fields = Mapping[int, tuple[Uint8, Uint8]]  # flow u, v by its place in the video


@dataclass(frozen=True)
class RankedClass:
    """One of the most probable classes of a video, or of a window start..end in it, in seconds."""

    video: str
    start: float | None
    end: float | None
    rank: int
    label: str
    probability: float


class PredictionFile:
    """Rows in a .json or a CSV file, on the disk as soon as they are given.

    There is no file before there is a row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._json = path.suffix == ".json"

    def __enter__(self) -> Self:
        return self

    def add(self, predictions: Iterable[RankedClass]) -> None:
        """Write some rows; the first one's columns are those of all."""
        for prediction in predictions:
            row = {key: value for key, value in asdict(prediction).items() if value is not None}
            first = self._file is None
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w", newline="", encoding="utf-8", errors="replace")
            if self._json:
                self._file.write(("[\n" if first else ",\n") + json.dumps(row))
                continue
            writer = csv.writer(self._file)
            writer.writerows(map(csv_cells, [row, row.values()] if first else [row.values()]))
        if self._file is not None:
            self._file.flush()

    @property
    def written(self) -> bool:
        """Whether there are rows."""
        return self._file is not None

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.write("\n]\n" if self._json else "")
            self._file.close()


def show_predictions(predictions: Sequence[RankedClass]) -> None:
    """Print a table with a row per video and class."""
    columns = ("video", "rank", "class", "probability")
    rows = [
        (p.video if p.rank == 1 else "", str(p.rank), p.label, f"{p.probability:.3f}")
        for p in predictions
    ]
    Console().print(table(columns, rows, left=("video", "class")))


class AnnotatedVideo:
    """Writes the mp4 `path`; frames wait as JPEGs until it is known what to say about them.

    The file gets its name when it is complete, or as far as the video went.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.part")
        self._writer: VideoWriter | None = None
        self._waiting: deque[tuple[int, float, bytes]] = deque()
        self._begin = 0.0
        self._inset: Uint8 | None = None
        self._labels: Labels = ()

    def wait(self, frame: TimedFrame) -> None:
        """Take a frame about which nothing is known yet."""
        self._waiting.append((frame.index, frame.time, encode_jpeg(frame.image)))

    def label(self, labels: Labels, fields: Fields, until: float) -> None:
        """Write the waiting frames before `until` seconds with these labels and flow."""
        self._labels = labels
        while self._waiting and self._waiting[0][1] < until:
            index, time, jpeg = self._waiting.popleft()
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
            self.write(image, index, time, labels, fields)

    def write(self, image: Uint8, index: int, time: float, labels: Labels, fields: Fields) -> None:
        """Write a frame at once; flow that is not there is the last one that was."""
        image = legible(image)
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            height, width = image.shape[:2]
            self._begin, rate = time, Fraction(TICKS, 1000)
            self._writer = VideoWriter(self._part, (height, width), rate, CRF, ticks=TICKS)
        if index in fields:
            field = torch.from_numpy(np.stack(fields[index]))  # (2, H, W)
            self._inset = color_flow(field[None])[0]
        draw(image, labels, self._inset)
        self._writer.write(image, time - self._begin)

    def close(self) -> None:
        """Complete the file; frames that still wait get the last labels. None were: no file."""
        if self._labels:
            self.label(self._labels, {}, math.inf)
        if self._writer is not None:
            self._writer.close()
            self._part.replace(self.path)


def legible(image: Uint8) -> Uint8:
    """A copy large enough for text, with the even sides that encoders want."""
    height, width = image.shape[:2]
    scale = max(1.0, min(SMALLEST / min(height, width), LARGEST / max(height, width)))
    size = round(width * scale), round(height * scale)
    large = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) if scale > 1 else image
    return cv2.copyMakeBorder(large, 0, size[1] % 2, 0, size[0] % 2, cv2.BORDER_REPLICATE)


def draw(image: Uint8, labels: Labels, inset: Uint8 | None) -> None:
    """Draw a bar per class at the bottom and the flow at the top right, into `image`."""
    height, width = image.shape[:2]
    unit = min(height, width) / SMALLEST
    row, margin = max(1, round(15 * unit)), round(4 * unit)
    labels = labels[: (height // 2) // row]
    top = height - margin - row * len(labels)
    if labels:
        panel = image[top - margin :]
        np.multiply(panel, 0.4, out=panel, casting="unsafe")
    for number, (name, probability) in enumerate(labels):
        y = top + number * row
        bar = round(probability * (width - 2 * margin))
        color = (40, 130, 220) if number == 0 else (90, 90, 90)
        cv2.rectangle(image, (margin, y), (margin + bar, y + row - margin // 2), color, -1)
        text, at = f"{probability:4.0%}  {name}", (2 * margin, y + row - margin)
        style = (cv2.FONT_HERSHEY_SIMPLEX, 0.38 * unit, (255, 255, 255), max(1, round(0.57 * unit)))
        cv2.putText(image, text, at, *style, cv2.LINE_AA)
    if inset is not None:
        side = width // 4
        small = cv2.resize(inset, (side, max(1, round(side * inset.shape[0] / inset.shape[1]))))
        small = small[: max(1, height // 2 - 2 * margin)]
        place = np.s_[margin : margin + len(small), width - margin - side : width - margin]
        image[place] = small
        corner = (width - margin, margin + len(small))
        cv2.rectangle(image, (width - margin - side, margin), corner, (255, 255, 255), 1)
