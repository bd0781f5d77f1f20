"""What video scores tell beyond their accuracy: by class, by confusion, by what fusion changes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from src.evaluation.scores import VideoScores
from src.plotting.charts import draw_class_accuracies, draw_confusion_matrix
from src.utils.errors import UserError
from src.utils.files import write_csv

BOTH = "both classifiers"  # the name of a net against each of its classifiers
UNREADABLE = -1  # the prediction for a video that could not be read: no class


class ClassAccuracy(NamedTuple):
    """How many videos of a class there are, and how many of them are right."""

    name: str
    videos: int
    correct: int

    @property
    def percent(self) -> float:
        """The recall of the class."""
        return 100 * self.correct / self.videos


class ClassDifference(NamedTuple):
    """A class in two runs: how many videos it has, and the accuracies on it in percent."""

    name: str
    videos: int
    one: float
    other: float

    @property
    def points(self) -> float:
        """By how much the second run is better."""
        return self.other - self.one


class Confusion(NamedTuple):
    """How many videos of the class `label`, out of `of`, were taken for the class `prediction`."""

    label: str
    prediction: str
    videos: int
    of: int


class Changes(NamedTuple):
    """Names of the videos that one way of scoring has right and another does not."""

    corrected: tuple[str, ...]
    broken: tuple[str, ...]


@dataclass(frozen=True)
class Fusion:
    """Scores that are the mean of others, called `name`, in words."""

    name: str
    scores: VideoScores
    parts: Mapping[str, VideoScores]

    def changes(self) -> dict[str, Changes]:
        """What the fusion corrected and broke, against each part."""
        return {part: changes(scores, self.scores) for part, scores in self.parts.items()}


def fused_classifiers(scores: VideoScores) -> Fusion | None:
    """A net against its classifiers, None if it has one only."""
    parts = scores.classifiers()
    return Fusion(BOTH, scores, parts) if parts else None


def predictions(scores: VideoScores) -> Tensor:
    """The class (N,) with the highest score of each video, `UNREADABLE` where it has none."""
    best = scores.scores.nan_to_num().argmax(1)
    return torch.where(scores.unreadable, UNREADABLE, best)


def confusion_matrix(scores: VideoScores) -> Tensor:
    """Counts (K, K) of videos by label (row) and prediction (column), without unreadable ones."""
    count = len(scores.classes)
    labels, predicted = torch.tensor(scores.labels), predictions(scores)
    read = predicted != UNREADABLE
    pairs = labels[read] * count + predicted[read]
    return torch.bincount(pairs, minlength=count * count).unflatten(0, (count, count))


def save_confusion(scores: VideoScores, file: Path) -> None:
    """Write `confusion_matrix` as CSV: a row for each label, a column for each prediction."""
    counts = confusion_matrix(scores).tolist()
    rows = ([name, *row] for name, row in zip(scores.classes, counts, strict=True))
    write_csv(file, [["label", *scores.classes], *rows])


def class_accuracies(scores: VideoScores) -> list[ClassAccuracy]:
    """Accuracy of each class that has a video, in the order of the classes."""
    labels, count = torch.tensor(scores.labels, dtype=torch.long), len(scores.classes)
    videos = labels.bincount(minlength=count).tolist()
    correct = labels[predictions(scores) == labels].bincount(minlength=count).tolist()
    return [each for each in map(ClassAccuracy, scores.classes, videos, correct) if each.videos]


def hardest_confusions(scores: VideoScores, most: int = 10) -> list[Confusion]:
    """The pairs of classes that most videos confuse, sorted by their number."""
    counts = confusion_matrix(scores).fill_diagonal_(0)
    videos, names = Counter(scores.labels), scores.classes
    pairs = sorted(counts.nonzero().tolist(), key=lambda pair: -int(counts[*pair]))[:most]
    return [
        Confusion(names[label], names[taken], int(counts[label, taken]), videos[label])
        for label, taken in pairs
    ]


def class_differences(one: VideoScores, other: VideoScores) -> list[ClassDifference]:
    """Compare the accuracies of the classes that occur, what gained most first.

    Raises:
        UserError: the scores are not of the same labelled videos.
    """
    labels = [labels_by_video(scores) for scores in (one, other)]
    if labels[0] != labels[1] or not labels[0]:
        raise UserError(
            f"the two runs are not of the same labelled videos ({len(labels[0])} and "
            f"{len(labels[1])}): compare runs of one dataset and split"
        )
    after = {accuracy.name: accuracy.percent for accuracy in class_accuracies(other)}
    differences = [
        ClassDifference(before.name, before.videos, before.percent, after[before.name])
        for before in class_accuracies(one)
    ]
    return sorted(differences, key=lambda difference: (-difference.points, difference.name))


def changes(before: VideoScores, after: VideoScores) -> Changes:
    """What is right after but not before, and the other way round, in videos that both have.

    Raises:
        UserError: both have no video in common, or give one another label.
    """
    labels, was, now = labels_by_video(before), _right(before), _right(after)
    common = [video for video in after.videos if video in was]
    if not common:
        raise UserError("these scores have no video in common")
    for video, label in labels_by_video(after).items():
        if labels.get(video, label) != label:
            raise UserError(f"video {video} is {labels[video]} in one file and {label} in another")
    return Changes(
        corrected=tuple(video for video in common if now[video] and not was[video]),
        broken=tuple(video for video in common if was[video] and not now[video]),
    )


def labels_by_video(scores: VideoScores) -> dict[str, str]:
    """The names of the classes that videos are of.

    Raises:
        UserError: the scores have no labels.
    """
    if len(scores.labels) != len(scores.videos):
        raise UserError("scores without a column named label cannot be compared")
    names = (scores.classes[label] for label in scores.labels)
    return dict(zip(scores.videos, names, strict=True))


def _right(scores: VideoScores) -> dict[str, bool]:
    right = predictions(scores) == torch.tensor(scores.labels)
    return dict(zip(scores.videos, right.tolist(), strict=True))


def draw_scores(scores: VideoScores, fused: Fusion | None = None) -> dict[str, Figure]:
    """Draw "class_accuracy" and "confusion" of a net; each part of a fusion has bars of its own."""
    parts = {**fused.parts, fused.name: fused.scores} if fused else {"all": scores}
    classes = class_accuracies(scores)
    return {
        "class_accuracy": draw_class_accuracies(
            {n: [each.percent for each in class_accuracies(part)] for n, part in parts.items()},
            [each.name for each in classes],
            [each.videos for each in classes],
        ),
        "confusion": draw_confusion_matrix(confusion_matrix(scores), scores.classes),
    }
