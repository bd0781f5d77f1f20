from pathlib import Path

import pytest
import torch

from src.evaluation.analysis import (
    changes,
    class_accuracies,
    confusion_matrix,
    fused_classifiers,
    hardest_confusions,
    predictions,
)
from src.evaluation.scores import VideoScores, video_accuracies
from src.utils.errors import UserError

CLASSES = ("run", "jump", "swim", "fly")  # nobody flies


def made_up(seed: int = 0, videos: int = 60) -> VideoScores:
    """Random scores of two streams, of three of the four classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(videos) % 3
    streams = {
        name: torch.randn(videos, 4, generator=generator) for name in ("appearance", "motion")
    }
    mean = torch.stack(list(streams.values())).mean(0)
    return VideoScores([f"v{i}" for i in range(videos)], labels.tolist(), mean, streams, CLASSES)


def test_counts_are_those_of_a_loop_over_videos() -> None:
    scores = made_up()
    counts = [[0] * 4 for _ in range(4)]
    for label, row in zip(scores.labels, scores.scores, strict=True):
        values = row.tolist()
        counts[label][values.index(max(values))] += 1
    assert confusion_matrix(scores).tolist() == counts
    by_class = class_accuracies(scores)
    assert [(c.name, c.videos, c.correct) for c in by_class] == [
        (name, sum(counts[i]), counts[i][i]) for i, name in enumerate(CLASSES[:3])
    ]
    mean_class = sum(c.percent for c in by_class) / 3
    assert mean_class == pytest.approx(video_accuracies(scores).mean_class)
    off = {(CLASSES[i], CLASSES[j]): counts[i][j] for i in range(4) for j in range(4) if i != j}
    hardest = hardest_confusions(scores, most=3)
    assert [c.videos for c in hardest] == sorted(off.values(), reverse=True)[:3]
    assert all(off[c.label, c.prediction] == c.videos for c in hardest)


def test_a_video_that_could_not_be_read_is_wrong_and_taken_for_nothing() -> None:
    scores = made_up().with_unreadable({"gone": 1})
    place = scores.videos.index("gone")
    assert predictions(scores)[place] == -1
    assert confusion_matrix(scores).sum() == 60
    assert sum(c.videos for c in class_accuracies(scores)) == 61
    right = sum(c.correct for c in class_accuracies(scores))
    assert 100 * right / 61 == pytest.approx(video_accuracies(scores).top1)


def test_changes_do_not_depend_on_the_order_of_videos(tmp_path: Path) -> None:
    fused = fused_classifiers(made_up())
    assert fused is not None
    for part, changed in fused.changes().items():
        alone = fused.parts[part]
        difference = video_accuracies(fused.scores).top1 - video_accuracies(alone).top1
        gained = len(changed.corrected) - len(changed.broken)
        assert difference == pytest.approx(100 * gained / 60)
        assert changed.corrected
        assert changed.broken
        fused.scores.save(tmp_path / "whole.csv")
        lines = (tmp_path / "whole.csv").read_text().splitlines()
        (tmp_path / "turned.csv").write_text("\n".join([lines[0], *lines[:0:-1]]))
        turned = changes(alone, VideoScores.load(tmp_path / "turned.csv"))
        assert set(turned.corrected) == set(changed.corrected)
        assert set(turned.broken) == set(changed.broken)


def test_scores_of_other_videos_or_labels_have_nothing_to_compare() -> None:
    one, other = made_up(), made_up()
    other.videos = [f"w{i}" for i in range(60)]
    with pytest.raises(UserError, match="no video in common"):
        changes(one, other)
    other = made_up()
    other.labels[7] = 2
    with pytest.raises(UserError, match="v7 is jump in one file and swim in another"):
        changes(one, other)
