"""Video-level scores: one row of class scores per video, kept, saved, fused and judged."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from src.errors import UserError
from src.models.metrics import judge


@dataclass
class VideoScores:
    """Scores of videos, in the order they were added.

    `streams` holds the scores of each classifier of a net; `scores` those of all together.
    """

    videos: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    streams: dict[str, list[Tensor]] = field(default_factory=dict)

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

    def of_stream(self, stream: str) -> "VideoScores":
        """The scores of one classifier alone."""
        return VideoScores(self.videos, self.labels, self.streams[stream])

    def gathered(self) -> "VideoScores":
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
        return VideoScores(
            [everything.videos[i] for i in order],
            [everything.labels[i] for i in order],
            [everything.rows[i] for i in order],
            {name: [rows[i] for i in order] for name, rows in everything.streams.items()},
        )

    def save(self, path: Path, classes: Sequence[str]) -> None:
        """Write a CSV file with the columns video, label (a class name), and one per class."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "label", *classes])
            for video, label, row in zip(self.videos, self.labels, self.rows, strict=True):
                writer.writerow([video, classes[label], *(f"{value:.8g}" for value in row)])

    @classmethod
    def load(cls, path: Path) -> "VideoScores":
        """Read what `save` wrote."""
        try:
            with path.open(newline="") as file:
                _, _, *classes = next(reader := csv.reader(file))
                rows = list(reader)
            if not rows or any(len(row) != 2 + len(classes) for row in rows):
                raise ValueError("it is empty or cut short")
            return cls(
                [row[0] for row in rows],
                [classes.index(row[1]) for row in rows],
                [torch.tensor([float(value) for value in row[2:]]) for row in rows],
            )
        except (OSError, ValueError, StopIteration, csv.Error) as error:
            raise UserError(f"{path} is not a file of video scores: {error}") from error


def fuse(first: VideoScores, second: VideoScores) -> VideoScores:
    """Late fusion: the mean of two nets' scores (equal weights, before any softmax)."""
    place = {video: index for index, video in enumerate(second.videos)}
    if set(place) != set(first.videos):
        raise UserError("scores of different lists of videos cannot be fused")
    if [second.labels[place[video]] for video in first.videos] != first.labels:
        raise UserError("scores that label videos differently cannot be fused")
    rows = [
        (row + second.rows[place[video]]) / 2
        for video, row in zip(first.videos, first.rows, strict=True)
    ]
    return VideoScores(first.videos, first.labels, rows)


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
    """Keeps the scores of every tested video, of all ranks, as `scores`."""

    def __init__(self) -> None:
        self.scores = VideoScores()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test."""
        self.scores = VideoScores()

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Keep what `test_step` returned."""
        self.scores.add(outputs["video"], outputs["label"], outputs["scores"], outputs["streams"])

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring together what all ranks have."""
        self.scores = self.scores.gathered()
