"""Video-level scores: one row of class scores per video, kept, saved and judged."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor

from src.errors import UserError
from src.models.metrics import judge

EXTERNAL = "external"  # the protocol of scores that do not say how they were made


@dataclass
class VideoScores:
    """Scores of videos, in the order they were added.

    `streams` holds the scores of each classifier of a net; `scores` those of all together.
    `labels` are indices into `classes`; scores read from elsewhere may have none.
    """

    videos: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    streams: dict[str, list[Tensor]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    protocol: str = EXTERNAL

    def add(
        self, videos: Sequence[str], labels: Tensor, scores: Tensor, streams: dict[str, Tensor]
    ) -> None:
        """Add a batch: names, labels (B,), scores (B, K) and those of each stream (B, K)."""
        self.videos += videos
        self.labels += labels.tolist()
        self.rows += scores.detach().float().cpu()
        for stream, values in streams.items():
            self.streams.setdefault(stream, []).extend(values.detach().float().cpu())

    @property
    def scores(self) -> Tensor:
        """Scores (N, K)."""
        return torch.stack(self.rows)

    def of_stream(self, stream: str) -> Self:
        """The scores of one classifier alone."""
        return replace(self, rows=self.streams[stream], streams={})

    def gathered(self) -> Self:
        """The scores of all ranks of a distributed run, on every rank, sorted by video."""
        parts = [self]
        if torch.distributed.is_initialized():
            parts = [self] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self)
        everything = VideoScores()
        for part in parts:
            everything.videos += part.videos
            everything.labels += part.labels
            everything.rows += part.rows
            for stream, rows in part.streams.items():
                everything.streams.setdefault(stream, []).extend(rows)
        order = sorted(range(len(everything.videos)), key=everything.videos.__getitem__)
        return replace(
            self,
            videos=[everything.videos[i] for i in order],
            labels=[everything.labels[i] for i in order],
            rows=[everything.rows[i] for i in order],
            streams={name: [rows[i] for i in order] for name, rows in everything.streams.items()},
        )

    def save(self, path: Path) -> None:
        """Write a CSV file with the columns video, label (a class name), and one per class.

        The protocol goes into a text file beside it, so that the CSV stays a plain table.
        """
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "label", *self.classes])
            for video, label, row in zip(self.videos, self.labels, self.rows, strict=True):
                writer.writerow([video, self.classes[label], *(f"{value:.8g}" for value in row)])
        _protocol_file(path).write_text(f"{self.protocol}\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote, or such a file from elsewhere.

        Columns may come in any order; without a column `label` there are no labels, and without
        the text file beside it the protocol is "external".

        Raises:
            UserError: the file is missing, broken, or of something else.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                return cls._parse(list(csv.reader(file)), _read_protocol(path))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} is not a file of video scores: {error}") from error

    @classmethod
    def _parse(cls, lines: list[list[str]], protocol: str) -> Self:
        header, *rows = [line for line in lines if line] or [[]]
        if not rows or any(len(row) != len(header) for row in rows):
            raise ValueError("it is empty or cut short")
        if "video" not in header:
            raise ValueError("it has no column named video")
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        if len(columns) < len(header):
            raise ValueError("it has two columns of the same name")
        videos, labels = list(columns.pop("video")), columns.pop("label", ())
        if len(set(videos)) < len(videos):
            raise ValueError("it has a video twice")
        classes = tuple(columns)
        if not classes:
            raise ValueError("it has no column of a class")
        unknown = set(labels) - set(classes)
        if unknown:
            raise ValueError(f"the label {min(unknown)} has no column")
        values = torch.tensor([[float(text) for text in column] for column in columns.values()])
        if not values.isfinite().all():
            raise ValueError("it has scores that are not finite, or too large")
        index = {name: number for number, name in enumerate(classes)}
        return cls(
            videos,
            [index[label] for label in labels],
            list(values.T),
            classes=classes,
            protocol=protocol,
        )


def _protocol_file(path: Path) -> Path:
    return path.with_suffix(".protocol.txt")


def _read_protocol(path: Path) -> str:
    file = _protocol_file(path)
    return file.read_text().strip() if file.is_file() else EXTERNAL


@dataclass(frozen=True)
class Accuracy:
    """Video-level accuracies in percent, over `videos` videos."""

    videos: int
    top1: float
    top5: float
    mean_class: float


def judge_videos(scores: VideoScores) -> Accuracy:
    """Top-1, top-5 and mean class accuracy of video scores."""
    return Accuracy(len(scores.videos), **judge(scores.scores, torch.tensor(scores.labels)))


class CollectScores(pl.Callback):
    """Keeps the scores of every tested video, of all ranks, as `scores`.

    Args:
        classes: names in the order of the scores.
        protocol: its name.
    """

    def __init__(self, classes: Sequence[str] = (), protocol: str = EXTERNAL) -> None:
        self.classes, self.protocol = tuple(classes), protocol
        self.scores = self._nothing()

    def _nothing(self) -> VideoScores:
        return VideoScores(classes=self.classes, protocol=self.protocol)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test."""
        self.scores = self._nothing()

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Keep what `test_step` returned."""
        self.scores.add(outputs["video"], outputs["label"], outputs["scores"], outputs["streams"])

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring together what all ranks have."""
        self.scores = self.scores.gathered()
