"""Video scores without a network."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from src.evaluation.scores import VideoScores

CLASSES = ["brush_hair", "kick, ball", "sword"]
VIDEOS = ['a "trick"_(1)#&!;[x]', "b, with a comma", "c", "ä"]
PROTOCOL = "25 full frames + flip at 256 px, mean of logits"


def random_scores(
    videos: Sequence[str] = VIDEOS, classes: Sequence[str] = CLASSES, seed: int = 0
) -> VideoScores:
    """Scores of two streams and their mean; labels go round."""
    random = torch.Generator().manual_seed(seed)
    streams = {
        name: torch.randn(len(videos), len(classes), generator=random)
        for name in ("appearance", "motion")
    }
    mean = (streams["appearance"] + streams["motion"]) / 2
    labels = [place % len(classes) for place in range(len(videos))]
    return VideoScores(list(videos), labels, mean, streams, tuple(classes), PROTOCOL)


def reordered(scores: VideoScores, order: list[int]) -> VideoScores:
    """The same videos in another order, or some of them."""
    return replace(
        scores,
        videos=[scores.videos[i] for i in order],
        labels=[scores.labels[i] for i in order],
        scores=scores.scores[order],
        streams={name: rows[order] for name, rows in scores.streams.items()},
    )
