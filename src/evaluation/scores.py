"""Video-level scores: one row of class scores per video, kept, saved and judged."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor

from src.data.datamodule import VideoDataModule
from src.data.faults import COUNT_AS_WRONG, Faults
from src.experiment.run_dir import StageDir
from src.models.metrics import accuracies, on_cpu, scores_of_wrong
from src.utils.errors import UserError
from src.utils.files import atomic_write, is_special, write_csv
from src.utils.ranks import of_all_ranks

EXTERNAL = "external"  # the protocol of scores that do not say how they were made
PROTOCOL_ENDING = ".protocol.txt"  # of the file beside a file of scores


@dataclass
class VideoScores:
    """Scores of N videos for K classes.

    A video that could not be read has NaN for every class, which no fusion turns into a number, and
    counts as wrong.
    """

    videos: list[str]  # names
    labels: list[int]  # indices into `classes`; scores read from elsewhere may have none
    scores: Tensor  # (N, K) of the net
    streams: Mapping[str, Tensor] = field(default_factory=dict)  # (N, K) of each classifier
    classes: tuple[str, ...] = ()  # names
    protocol: str = EXTERNAL  # by which the videos were tested
    faults: tuple[Faults, ...] = ()  # what could not be read, and what of the list is missing

    @property
    def unreadable(self) -> Tensor:
        """Which videos could not be read (N,)."""
        return self.scores.isnan().any(1)

    def joined(self, *others: Self) -> Self:
        """With the videos of others, sorted by name; the rest is that of the first."""
        parts = (self, *others)
        videos = [video for part in parts for video in part.videos]
        labels = [label for part in parts for label in part.labels]
        order = sorted(range(len(videos)), key=videos.__getitem__)
        return replace(
            self,
            videos=[videos[i] for i in order],
            labels=[labels[i] for i in order],
            scores=torch.cat([part.scores for part in parts])[order],
            streams={
                name: torch.cat([part.streams[name] for part in parts])[order]
                for name in self.streams
            },
        )

    def with_unreadable(self, labels: Mapping[str, int]) -> Self:
        """With more videos, by their names, that could not be read; sorted by video."""
        nothing = torch.full((len(labels), len(self.classes)), math.nan)
        streams = dict.fromkeys(self.streams, nothing)
        unread = type(self)(list(labels), list(labels.values()), nothing, streams)
        return self.joined(unread)

    def classifiers(self) -> dict[str, Self]:
        """The scores of each classifier alone, of a net that has several."""
        several = self.streams if len(self.streams) > 1 else {}
        return {s: replace(self, scores=part, streams={}) for s, part in several.items()}

    def save(self, path: Path) -> None:
        """Write a CSV file with the columns video, label (a class name), and one per class.

        The protocol and the number of videos go into a text file beside it, so that the CSV stays a
        plain table, and one that is cut short is recognized.
        """
        rows = zip(self.videos, self.labels, self.scores, strict=True)
        lines = ([v, self.classes[label], *(f"{x:.8g}" for x in row)] for v, label, row in rows)
        write_csv(path, [["video", "label", *self.classes], *lines])
        with atomic_write(path.with_suffix(PROTOCOL_ENDING)) as draft:
            draft.write_text(f"{self.protocol}\n{len(self.videos)} videos\n", encoding="utf-8")

    def save_all(self, stage_dir: StageDir) -> list[Path]:
        """Write the scores, and those of each classifier of several, into files of a stage."""
        files = {stage_dir.scores(): self}
        files |= {stage_dir.scores(name): part for name, part in self.classifiers().items()}
        for file, scores in files.items():
            scores.save(file)
        return list(files)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote, or such a file from elsewhere.

        Columns may come in any order; without a column `label` there are no labels, and without
        the text file beside it the protocol is "external".

        Raises:
            UserError: the file is missing, broken, or of something else.
        """
        about = path.with_suffix(PROTOCOL_ENDING)
        if is_special(path):
            raise UserError(f"{path} is no file: save the scores in one")
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                scores = cls._parse(list(csv.reader(file)))
            if about.is_file():
                scores.protocol, *count = about.read_text(encoding="utf-8").splitlines()
                if count not in ([], [f"{len(scores.videos)} videos"]):
                    raise ValueError(f"it has {len(scores.videos)} of {count[0]}, it is cut short")
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} is not a file of video scores: {error}") from error
        return scores

    @classmethod
    def _parse(cls, lines: list[list[str]]) -> Self:
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
        if not columns:
            raise ValueError("it has no column of a class")
        index = {name: number for number, name in enumerate(columns)}
        unknown = set(labels) - set(index)
        if unknown:
            raise ValueError(f"the label {min(unknown)} has no column")
        values = torch.tensor([[float(text) for text in column] for column in columns.values()])
        if not (values.isfinite().all(0) | values.isnan().all(0)).all():
            raise ValueError("it has scores that are not finite, or too large")
        return cls(videos, [index[label] for label in labels], values.T, classes=tuple(columns))


@dataclass(frozen=True)
class Accuracy:
    """Video-level accuracies in percent, over `videos` videos.

    `unreadable` of them could not be read, and count as wrong.
    """

    videos: int
    top1: float
    top5: float
    mean_class: float
    unreadable: int = 0


def video_accuracies(scores: VideoScores) -> Accuracy:
    """Top-1, top-5 and mean class accuracy of video scores."""
    values, labels, wrong = scores.scores.clone(), torch.tensor(scores.labels), scores.unreadable
    values[wrong] = scores_of_wrong(labels[wrong], values.shape[1])
    return Accuracy(len(labels), **accuracies(values, labels), unreadable=int(wrong.sum()))


class CollectScores(pl.Callback):
    """Keeps the scores of every tested video, of all ranks, as `scores`.

    A test replaces nothing: videos that are missing or cannot be read are counted as wrong, if
    `data.videos.missing` says so, or else the test ends with an error that names all of them.
    """

    def __init__(self, data: VideoDataModule, protocol: str) -> None:
        self.data, self.protocol = data, protocol
        self.scores: VideoScores  # when the test has ended
        self._batches: list[VideoScores] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test."""
        self._batches.clear()
        self.data.errors.unreadable["test"].clear()

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Keep what `test_step` returned."""
        streams = on_cpu(outputs["streams"])
        scores = outputs["scores"].float().cpu()
        batch = VideoScores(outputs["video"], outputs["label"].tolist(), scores, streams)
        self._batches.append(batch)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring together what all ranks have, and count what none of them could read.

        Raises:
            UserError: videos could not be read, on all ranks alike.
        """
        classes = self.data.videos.classes
        batches = [batch for own in of_all_ranks(self._batches) for batch in own]
        first, *others = batches or [VideoScores([], [], torch.empty(0, len(classes)))]
        self.scores = replace(first, classes=classes, protocol=self.protocol).joined(*others)
        errors, part = self.data.errors, self.data.test_part
        unreadable = errors.of_all_ranks("test")["test"]
        if self.data.reading.missing != COUNT_AS_WRONG:
            for faults in errors.faults(part, "cannot be read", unreadable):
                raise UserError(
                    f"{faults}: fix them (python -m src.verify_data tells what is wrong with "
                    "them), or count them as wrong with data.videos.missing=count_as_wrong; then "
                    "rerun the same command for the test"
                )
            self.scores.faults = errors.left_out(part)
            return
        wrong = errors.missing[part] | unreadable
        if not wrong:
            return
        labels = {v.name: v.label for v in getattr(self.data.listed, part) if v.name in wrong}
        self.scores = self.scores.with_unreadable(labels)
        self.scores.faults = errors.faults(part, "could not be read and count as wrong", wrong)
        if trainer.is_global_zero:  # the metrics are summed over ranks
            target = torch.tensor(list(labels.values()), device=pl_module.device)
            module: Any = pl_module
            wrong_scores = scores_of_wrong(target, len(self.scores.classes))
            module.test_metrics.update(dict.fromkeys(module.streams, wrong_scores), target)
