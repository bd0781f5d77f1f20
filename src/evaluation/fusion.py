"""Late fusion: scores of several nets, or from elsewhere, brought into one order and averaged."""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from src.evaluation.evaluate import load_module, score_videos, scores_beside
from src.evaluation.protocol import AVERAGES
from src.evaluation.scores import VideoScores, video_accuracies
from src.evaluation.table import Result
from src.media.find_videos import is_video
from src.utils.errors import UserError

log = logging.getLogger(__name__)


def fuse(
    parts: Sequence[VideoScores],
    weights: Sequence[float] | None = None,
    average_over: str = "logits",
) -> VideoScores:
    """Late fusion: the weighted mean of several nets' scores, in the order of the first's videos.

    A video that one of the parts could not read has no fused scores either, and counts as wrong.

    Args:
        parts: scores of the same videos, in any order, for the same classes in the same order.
        weights: one for each; only their ratios matter. None weighs them equally.
        average_over: "logits" takes the scores as they are, "probabilities" the softmax of each
            row, for scores of different scales; rows that are probabilities already stay so.

    Raises:
        UserError: the parts are of different videos, labels or classes, or a weight is wrong.
    """
    check_how(weights, average_over, len(parts))
    weights = [1.0] * len(parts) if weights is None else weights
    first = parts[0]
    total = torch.zeros_like(first.scores, dtype=torch.float64)
    protocols = []
    for part, weight in zip(parts, weights, strict=True):
        place = {video: index for index, video in enumerate(part.videos)}
        if set(place) != set(first.videos):
            raise UserError("scores of different lists of videos cannot be fused")
        if part.classes != first.classes:
            raise UserError("scores for different lists of classes cannot be fused")
        order = [place[video] for video in first.videos]
        if [part.labels[index] for index in order] != first.labels:
            raise UserError("scores that label videos differently cannot be fused")
        scores = part.scores[order].double()
        read = scores[~part.unreadable[order]]  # what one part could not read, all have not
        soften = average_over == "probabilities" and not _are_probabilities(read)
        total += weight * (scores.softmax(1) if soften else scores)
        protocols.append(f"probabilities of ({part.protocol})" if soften else part.protocol)
    mean = (total / sum(weights)).float()
    protocol = _fused_protocol(protocols, weights)
    return replace(first, scores=mean, streams={}, protocol=protocol, faults=())


def check_how(weights: Sequence[float] | None, average_over: str, count: int) -> None:
    """Refuse weights that do not fit `count` inputs, and an unknown average."""
    if average_over not in AVERAGES:
        raise UserError(f"average_over={average_over}: choose from {', '.join(AVERAGES)}")
    if weights is None:
        return
    if len(weights) != count:
        raise UserError(f"weights={list(weights)}: needs one for each of the {count} inputs")
    numbers = all(isinstance(weight, int | float) for weight in weights)
    if not numbers or not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
        raise UserError(f"weights={list(weights)}: needs numbers from 0, not all of them 0")


def _are_probabilities(scores: Tensor) -> bool:
    """Whether the rows of scores (N, K) are; a second softmax would level them out."""
    sums = scores.sum(1)
    return bool((scores >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _fused_protocol(protocols: Sequence[str], weights: Sequence[float]) -> str:
    if len(set(protocols)) == len(set(weights)) == 1:
        return protocols[0]  # a mean like that over the streams of one net
    pairs = zip(weights, protocols, strict=True)
    return " + ".join(f"{weight:g} x ({protocol})" for weight, protocol in pairs)


def aligned(
    part: VideoScores, reference: VideoScores, name: str, reference_name: str
) -> VideoScores:
    """Scores in the order of the reference's videos and classes, with its labels.

    Videos are the same if their names are, without class folder and ending. Those that the
    reference does not have are left out, with a warning. The names of the two are for messages.

    Raises:
        UserError: a video or a class is missing, or is labelled differently.
    """
    check_classes(part.classes, reference.classes, name, reference_name)
    rows: dict[str, int] = {}
    for index, video in enumerate(part.videos):
        if rows.setdefault(_key(video), index) != index:
            raise UserError(f"{name} has two videos of the name {_key(video)}: leave one")
    missing = [video for video in reference.videos if _key(video) not in rows]
    if missing:
        raise UserError(
            f"{name} has no scores for {len(missing)} of the {len(reference.videos)} videos of "
            f"{reference_name}, the first is {missing[0]}: fuse scores of the same split"
        )
    order = [rows[_key(video)] for video in reference.videos]
    if more := sorted(rows.keys() - {_key(video) for video in reference.videos}):
        log.warning(
            "%s has scores for %d videos that %s lacks, the first is %s: they are left out",
            *(name, len(more), reference_name, more[0]),
        )
    for index, video, label in zip(order, reference.videos, reference.labels, strict=True):
        if part.labels and part.classes[part.labels[index]] != reference.classes[label]:
            raise UserError(
                f"{name} labels {video} as {part.classes[part.labels[index]]}, {reference_name} "
                f"as {reference.classes[label]}: correct one, or leave the column label out"
            )
    columns = [part.classes.index(known) for known in reference.classes]
    scores, protocol = part.scores[order][:, columns], part.protocol
    return replace(reference, scores=scores, streams={}, protocol=protocol, faults=part.faults)


def check_classes(
    classes: Sequence[str], reference: Sequence[str], name: str, reference_name: str
) -> None:
    """Refuse scores for other classes than the reference's; their order does not matter."""
    lacks = sorted(set(reference) - set(classes))
    if lacks:
        raise UserError(
            f"{name} lacks {len(lacks)} of the {len(reference)} classes of {reference_name}, the "
            f"first is {lacks[0]}: fuse scores for the same classes"
        )
    more = sorted(set(classes) - set(reference))
    if more:
        raise UserError(
            f"{name} has {len(more)} columns that are no class of {reference_name}, the first is "
            f"{more[0]}: leave them out"
        )


def _key(video: str) -> str:
    """A video's name without class folder and ending."""
    path = PurePosixPath(video.replace("\\", "/"))
    return path.stem if is_video(path) else path.name


def fuse_inputs(
    inputs: Sequence[str],
    weights: Sequence[float] | None,
    average_over: str,
    make_trainer: Callable[[], pl.Trainer],
    data_changes: Mapping[str, Any],
    protocol: Mapping[str, Any],
) -> tuple[list[Result], VideoScores]:
    """Fuse checkpoints, which are evaluated first, and files of scores.

    The first input with labels says which videos there are and which class each is of.

    Args:
        inputs: checkpoints of this project, and .csv files: its own scores, or others with a
            column `video`, one for each class and perhaps one `label`, in any order.
        make_trainer: a new trainer for each checkpoint.
        weights, average_over: see `fuse`; data_changes, protocol: see `load_module`.

    Returns:
        The results of each input alone and, last, of all together; and the fused scores.

    Raises:
        UserError: an input cannot be read, or is of another split, other classes or videos.
    """
    if len(inputs) < 2:
        raise UserError(f"inputs={list(inputs)}: fusion needs two or more")
    check_how(weights, average_over, len(inputs))
    # All of them are read before the first is evaluated, which takes long.
    scores = {path: VideoScores.load(Path(path)) for path in inputs if path.endswith(".csv")}
    paths = dict.fromkeys(path for path in inputs if path not in scores)
    checkpoints = {path: load_module(path, data_changes, protocol) for path in paths}
    labelled = [path for path in inputs if path in checkpoints or scores[path].labels]
    if not labelled:
        raise UserError("no input has a column named label: name one that has, or a checkpoint")
    first = labelled[0]
    classes: dict[str, Sequence[str]] = {path: part.classes for path, part in scores.items()}
    classes |= {path: metadata.class_names for path, (_, metadata) in checkpoints.items()}
    for path in inputs:
        check_classes(classes[path], classes[first], path, first)
    splits = {path: metadata.split for path, (_, metadata) in checkpoints.items()}
    for path, split in splits.items():
        reference, of_reference = next(iter(splits.items()))
        if split != of_reference:
            raise UserError(
                f"{path} was trained on split {split}, {reference} on split {of_reference}: fuse "
                "checkpoints of the same split"
            )
    for path, (module, metadata) in checkpoints.items():
        scores[path] = score_videos(module, metadata, make_trainer(), scores_beside(path), path)
    parts = [aligned(scores[path], scores[first], path, first) for path in inputs]
    fused = fuse(parts, weights, average_over)
    results = [
        Result(name, "", video_accuracies(part), part.protocol, part.faults)
        for name, part in zip(_without_common_folder(inputs), parts, strict=True)
    ]
    ratio = " : ".join(f"{weight:g}" for weight in weights or [1] * len(parts))
    late = Result(f"late fusion {ratio}", "", video_accuracies(fused), fused.protocol)
    return [*results, late], fused


def _without_common_folder(paths: Sequence[str]) -> list[str]:
    """Paths short enough for a table, and still distinguished."""
    common = os.path.commonpath([Path(path).absolute().parent for path in paths])
    return [os.path.relpath(path, common) for path in paths]
