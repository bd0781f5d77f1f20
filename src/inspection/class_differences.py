"""Where one run is better than another: the accuracy of each class in both."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import UserError
from src.evaluation.scores import VideoScores


@dataclass(frozen=True)
class ClassDifference:
    """A class in two runs.

    Args:
        name: of the class.
        videos: how many are of it.
        one, other: accuracies on it, in percent.
    """

    name: str
    videos: int
    one: float
    other: float

    @property
    def points(self) -> float:
        """By how much the second run is better."""
        return self.other - self.one


def class_differences(one: VideoScores, other: VideoScores) -> list[ClassDifference]:
    """Compare the accuracies of the classes that occur, what gained most first.

    Args:
        one, other: labelled scores of the same videos.

    Raises:
        UserError: the videos or their labels differ.
    """
    labels = [dict(zip(each.videos, _names(each), strict=True)) for each in (one, other)]
    if labels[0] != labels[1] or not labels[0]:
        raise UserError(
            f"the two runs are not of the same labelled videos ({len(labels[0])} and "
            f"{len(labels[1])}): compare runs of one dataset and split"
        )
    right = [dict(zip(each.videos, _right(each).tolist(), strict=True)) for each in (one, other)]
    found = []
    for name in dict.fromkeys(labels[0].values()):
        videos = [video for video, label in labels[0].items() if label == name]
        accuracies = [100 * sum(r[video] for video in videos) / len(videos) for r in right]
        found.append(ClassDifference(name, len(videos), *accuracies))
    return sorted(found, key=lambda each: (-each.points, each.name))


def _names(scores: VideoScores) -> list[str]:
    if len(scores.labels) != len(scores.videos):
        raise UserError("scores without a column named label cannot be compared")
    return [scores.classes[label] for label in scores.labels]


def _right(scores: VideoScores) -> Tensor:
    """Whether each video (N,) is right; one that could not be read is not."""
    return (scores.scores.argmax(1) == torch.tensor(scores.labels)) & ~scores.unreadable
