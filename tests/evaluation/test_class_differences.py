"""The accuracy of each class in two runs."""

import math

import pytest
import torch

from src.evaluation.analysis import ClassDifference, class_differences
from src.evaluation.scores import VideoScores
from src.utils.errors import UserError


def scores(**predicted: int) -> VideoScores:
    """Videos named after their class, a or b, and a number; -1 could not be read."""
    rows = [
        torch.full((2,), math.nan) if label < 0 else torch.eye(2)[label]
        for label in predicted.values()
    ]
    labels = ["ab".index(name[0]) for name in predicted]
    return VideoScores(list(predicted), labels, torch.stack(rows), classes=("a", "b"))


def test_classes_by_what_they_gain() -> None:
    one = scores(a1=0, a2=-1, a3=0, a4=0, b1=0, b2=-1)
    other = scores(b2=1, b1=0, a4=1, a3=1, a2=1, a1=0)  # in another order
    assert class_differences(one, other) == [
        ClassDifference("b", 2, 0.0, 50.0),
        ClassDifference("a", 4, 75.0, 25.0),
    ]
    assert [each.points for each in class_differences(one, other)] == [50.0, -50.0]


def test_runs_of_other_videos_are_refused() -> None:
    with pytest.raises(UserError, match="same labelled videos"):
        class_differences(scores(a1=0), scores(a1=0, b1=1))
    unlabelled = scores(a1=0)
    unlabelled.labels = []
    with pytest.raises(UserError, match="label"):
        class_differences(unlabelled, scores(a1=0))
