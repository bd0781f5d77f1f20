"""Late fusion of scores in memory: weights, averages, and files of others put in order."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src.evaluation.fusion import aligned, fuse
from src.evaluation.scores import VideoScores
from src.utils.errors import UserError
from tests.builders import CLASS_NAMES, PROTOCOL, VIDEO_NAMES, random_scores, reordered


def test_fusion_is_the_mean_by_video() -> None:
    first, second = random_scores(seed=1), random_scores(seed=2)
    fused = fuse([first, reordered(second, [2, 0, 3, 1])])
    assert (fused.videos, fused.labels, fused.classes) == (
        first.videos,
        first.labels,
        first.classes,
    )
    assert_close(fused.scores, (first.scores + second.scores) / 2)
    assert fused.protocol == PROTOCOL
    assert not fused.streams


@pytest.mark.parametrize("average_over", ["logits", "probabilities"])
@pytest.mark.parametrize("weights", [(1, 1, 0.5), (0, 3, 1), (0.2, 0.2, 0.2)])
def test_weights(weights: tuple[float, ...], average_over: str) -> None:
    parts = [random_scores(seed=seed) for seed in range(3)]
    fused = fuse(parts, weights, average_over)
    for place in range(len(VIDEO_NAMES)):
        rows = [part.scores[place].double().numpy() for part in parts]
        if average_over == "probabilities":
            rows = [np.exp(row) / np.exp(row).sum() for row in rows]
        expected = np.average(rows, axis=0, weights=weights)
        assert_close(fused.scores[place].double().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_softmax_brings_scales_together() -> None:
    """A net whose logits are a hundred times the other's would have the only word."""
    scores = random_scores()
    loud, quiet = (
        replace(scores, scores=scale * torch.eye(3)[[place] * len(VIDEO_NAMES)])
        for scale, place in ((500, 0), (5, 1))
    )
    by_logits, by_softmax = (fuse([loud, quiet], [1, 2], a) for a in ("logits", "probabilities"))
    assert by_logits.scores.argmax(1).tolist() == [0, 0, 0, 0]
    assert by_softmax.scores.argmax(1).tolist() == [1, 1, 1, 1]


def test_probabilities_are_not_levelled_out() -> None:
    first, second = random_scores(seed=1), random_scores(seed=2)
    probable = replace(first, scores=first.scores.softmax(1))
    fused = fuse([probable, second], average_over="probabilities")
    assert_close(fused.scores, fuse([first, second], average_over="probabilities").scores)


def test_the_fused_protocol_names_what_differs() -> None:
    ours, theirs = random_scores(), replace(random_scores(seed=1), protocol="external")
    assert fuse([ours, theirs]).protocol == f"1 x ({PROTOCOL}) + 1 x (external)"
    assert fuse([ours, ours], [1, 0.5]).protocol == f"1 x ({PROTOCOL}) + 0.5 x ({PROTOCOL})"
    softened = fuse([ours, ours], [2, 2], "probabilities").protocol
    assert softened == f"probabilities of ({PROTOCOL})"
    probable = replace(ours, scores=ours.scores.softmax(1), protocol="external")
    mixed = fuse([ours, probable], [1, 3], "probabilities").protocol
    assert mixed == f"1 x (probabilities of ({PROTOCOL})) + 3 x (external)"
    assert fuse([ours, ours], [2, 2]).protocol == PROTOCOL


@pytest.mark.parametrize("others", [VIDEO_NAMES[:3], [*VIDEO_NAMES, "d"], [*VIDEO_NAMES[:3], "d"]])
def test_other_videos_are_not_fused(others: list[str]) -> None:
    with pytest.raises(UserError, match="different lists of videos"):
        fuse([random_scores(), random_scores(others)])


def test_other_labels_and_classes_are_not_fused() -> None:
    scores = random_scores()
    with pytest.raises(UserError, match="label videos differently"):
        fuse([scores, replace(scores, labels=scores.labels[::-1])])
    with pytest.raises(UserError, match="different lists of classes"):
        fuse([scores, replace(scores, classes=scores.classes[::-1])])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "needs one for each of the 2 inputs"),
        ([1, -0.5], "numbers from 0"),
        ([0, 0], "not all of them 0"),
        ([1, float("nan")], "numbers from 0"),
        ([1, float("inf")], "numbers from 0"),
        ([1, "much"], "numbers from 0"),
    ],
)
def test_wrong_weights(weights: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fuse([random_scores(seed=1), random_scores(seed=2)], weights)


def test_wrong_average() -> None:
    with pytest.raises(UserError, match="average_over=max: choose from logits, probabilities"):
        fuse([random_scores(), random_scores()], average_over="max")


def elsewhere(
    scores: VideoScores, order: list[int], columns: list[int], names: list[str]
) -> VideoScores:
    """The same scores as another program would write them."""
    shuffled = reordered(scores, order)
    return VideoScores(
        names,
        [],
        shuffled.scores[:, columns],
        classes=tuple(scores.classes[column] for column in columns),
    )


def test_scores_from_elsewhere_are_put_in_order() -> None:
    reference, scores = random_scores(seed=1), random_scores(seed=2)
    theirs = elsewhere(
        scores,
        [3, 1, 0, 2, 0],
        [2, 0, 1],
        ["sword/ä.avi", "x\\b, with a comma.MP4", f"{VIDEO_NAMES[0]}", "c", "not among them"],
    )
    found = aligned(theirs, reference, "idt.csv", "a.ckpt")
    assert (found.videos, found.labels) == (reference.videos, reference.labels)
    assert (found.classes, found.protocol) == (reference.classes, "external")
    assert_close(found.scores, scores.scores)
    assert_close(fuse([reference, found]).scores, (reference.scores + scores.scores) / 2)


def test_a_point_in_a_name_is_no_ending() -> None:
    names = ["Mr._Smith_kick", "v1.5"]
    reference = random_scores(names)
    theirs = replace(random_scores([names[1], f"{names[0]}.avi"], seed=1), labels=[])
    found = aligned(theirs, reference, "idt.csv", "a.ckpt")
    assert_close(found.scores, theirs.scores[[1, 0]])


def scores_of(videos: list[str], classes: list[str], labels: list[int]) -> VideoScores:
    rows = torch.zeros(len(videos), len(classes))
    return VideoScores(videos, labels, rows, classes=tuple(classes))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            scores_of(["x/b, with a comma", *VIDEO_NAMES[2:]], CLASS_NAMES, []),
            r"idt\.csv has no scores for 1 of the 4 videos of a\.ckpt, the first is a \"trick\"",
        ),
        (
            scores_of(VIDEO_NAMES, [CLASS_NAMES[0], CLASS_NAMES[2]], []),
            r"idt\.csv lacks 1 of the 3 classes of a\.ckpt, the first is kick, ball",
        ),
        (
            scores_of(VIDEO_NAMES, [*CLASS_NAMES, "frames"], []),
            r"idt\.csv has 1 columns that are no class of a\.ckpt, the first is frames",
        ),
        (
            scores_of([*VIDEO_NAMES, "sword/c.avi"], CLASS_NAMES, []),
            r"idt\.csv has two videos of the name c",
        ),
        (
            scores_of(VIDEO_NAMES, CLASS_NAMES, [0, 1, 1, 0]),
            r"idt\.csv labels c as kick, ball, a\.ckpt as sword",
        ),
    ],
    ids=["missing video", "missing class", "other column", "video twice", "other label"],
)
def test_scores_of_something_else_are_refused_by_name(part: VideoScores, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        aligned(part, random_scores(), "idt.csv", "a.ckpt")
    assert "\n" not in str(caught.value)
