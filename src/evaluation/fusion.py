"""Late fusion: scores of several nets, or from elsewhere, brought into one order and averaged."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import torch
from torch import Tensor

from src.data.find_videos import ENDINGS
from src.errors import UserError
from src.evaluation.protocol import AVERAGES
from src.evaluation.scores import VideoScores


def fuse(
    parts: Sequence[VideoScores],
    weights: Sequence[float] | None = None,
    average: str = "logits",
) -> VideoScores:
    """Late fusion: the weighted mean of several nets' scores, in the order of the first's videos.

    A video that one of the parts could not read has no fused scores either, and counts as wrong.

    Args:
        parts: scores of the same videos, in any order, for the same classes in the same order.
        weights: one for each; only their ratios matter. None weighs them equally.
        average: "logits" takes the scores as they are, "softmax" the softmax of each row, for
            scores of different scales; rows that are probabilities already stay as they are.

    Raises:
        UserError: the parts are of different videos, labels or classes, or a weight is wrong.
    """
    check_how(weights, average, len(parts))
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
        soften = average == "softmax" and not _are_probabilities(read)
        total += weight * (scores.softmax(1) if soften else scores)
        protocols.append(f"softmax of ({part.protocol})" if soften else part.protocol)
    mean = (total / sum(weights)).float()
    protocol = _fused_protocol(protocols, weights)
    return replace(first, rows=list(mean), streams={}, protocol=protocol, faults=())


def check_how(weights: Sequence[float] | None, average: str, count: int) -> None:
    """Refuse weights that do not fit `count` inputs, and an unknown average."""
    if average not in AVERAGES:
        raise UserError(f"average={average}: choose from {', '.join(AVERAGES)}")
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
    terms = (
        f"{weight:g} x ({protocol})" for weight, protocol in zip(weights, protocols, strict=True)
    )
    return " + ".join(terms)


def aligned(
    part: VideoScores, reference: VideoScores, name: str, reference_name: str
) -> VideoScores:
    """Scores in the order of the reference's videos and classes, with its labels.

    Videos are the same if their names are, without class folder and ending. Those that the
    reference does not have are left out.

    Args:
        part: scores in whatever order, with or without labels.
        reference: with labels.
        name, reference_name: for messages.

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
    for index, video, label in zip(order, reference.videos, reference.labels, strict=True):
        if part.labels and part.classes[part.labels[index]] != reference.classes[label]:
            raise UserError(
                f"{name} labels {video} as {part.classes[part.labels[index]]}, {reference_name} "
                f"as {reference.classes[label]}: correct one, or leave the column label out"
            )
    columns = [part.classes.index(known) for known in reference.classes]
    scores = part.scores[order][:, columns]
    return replace(
        reference,
        rows=list(scores),
        streams={},
        protocol=part.protocol,
        faults=part.faults,
    )


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
    return path.stem if path.suffix.lower() in ENDINGS.split() else path.name
