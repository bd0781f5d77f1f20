"""Late fusion of checkpoints and files of scores: what the command `src.fuse` does."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from src.errors import UserError
from src.evaluation.evaluate import load_module, score_videos, scores_beside
from src.evaluation.fusion import aligned, check_classes, check_how, fuse
from src.evaluation.scores import VideoScores, judge_videos
from src.evaluation.table import Result
from src.experiment.checkpoints import Description
from src.models.modules import VideoClassifier


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint whose videos are not scored yet."""

    path: str
    module: VideoClassifier
    description: Description

    @property
    def classes(self) -> Sequence[str]:
        return self.description.class_names

    def scores(self, trainer: pl.Trainer) -> VideoScores:
        return score_videos(
            self.module, self.description, trainer, scores_beside(self.path), self.path
        )


def fuse_inputs(
    inputs: Sequence[str],
    weights: Sequence[float] | None,
    average: str,
    make_trainer: Callable[[], pl.Trainer],
    data_changes: Mapping[str, Any],
    protocol: Mapping[str, Any],
) -> tuple[list[Result], VideoScores]:
    """Fuse checkpoints, which are evaluated first, and files of scores.

    The first input with labels says which videos there are and which class each is of.

    Args:
        inputs: checkpoints of this project, and .csv files: its own scores, or others with a
            column `video`, one for each class and perhaps one `label`, in any order.
        weights: one for each input; None weighs them equally.
        average: "logits" or "softmax", see `fuse`.
        make_trainer: a new trainer for each checkpoint.
        data_changes: keys of the checkpoints' data configs to change.
        protocol: keys of their protocols to change; None leaves one as it is.

    Returns:
        The results of each input alone and, last, of all together; and the fused scores.

    Raises:
        UserError: an input cannot be read, or is of another split, other classes or videos.
    """
    if len(inputs) < 2:
        raise UserError(f"inputs={list(inputs)}: fusion needs two or more")
    check_how(weights, average, len(inputs))
    # All of them are read before the first is evaluated, which takes long.
    opened = [
        VideoScores.load(Path(path))
        if Path(path).suffix == ".csv"
        else _Checkpoint(path, *load_module(path, data_changes, protocol))
        for path in inputs
    ]
    first = next((i for i, one in enumerate(opened) if _has_labels(one)), None)
    if first is None:
        raise UserError("no input has a column named label: name one that has, or a checkpoint")
    for path, one in zip(inputs, opened, strict=True):
        check_classes(one.classes, opened[first].classes, path, inputs[first])
    _check_splits([one for one in opened if isinstance(one, _Checkpoint)])

    scores = [one.scores(make_trainer()) if isinstance(one, _Checkpoint) else one for one in opened]
    parts = [
        aligned(part, scores[first], path, inputs[first])
        for path, part in zip(inputs, scores, strict=True)
    ]
    fused = fuse(parts, weights, average)
    results = [
        Result(name, "", judge_videos(part), part.protocol, part.faults)
        for name, part in zip(_without_common_folder(inputs), parts, strict=True)
    ]
    ratio = " : ".join(f"{weight:g}" for weight in weights or [1] * len(parts))
    name = f"late fusion {ratio}"
    return [*results, Result(name, "", judge_videos(fused), fused.protocol)], fused


def _without_common_folder(paths: Sequence[str]) -> list[str]:
    """Paths short enough for a table, and still told apart."""
    common = os.path.commonpath([Path(path).absolute().parent for path in paths])
    return [str(Path(path).absolute().relative_to(common)) for path in paths]


def _has_labels(opened: VideoScores | _Checkpoint) -> bool:
    return isinstance(opened, _Checkpoint) or bool(opened.labels)


def _check_splits(checkpoints: Sequence[_Checkpoint]) -> None:
    for one in checkpoints[1:]:
        first = checkpoints[0]
        if one.description.split != first.description.split:
            raise UserError(
                f"{one.path} was trained on split {one.description.split}, {first.path} on split "
                f"{first.description.split}: fuse checkpoints of the same split"
            )
