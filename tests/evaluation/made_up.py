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
    scores = VideoScores(classes=tuple(classes), protocol=PROTOCOL)
    for start in range(0, len(videos), 3):  # in batches
        batch = videos[start : start + 3]
        streams = {
            name: torch.randn(len(batch), len(classes), generator=random)
            for name in ("appearance", "motion")
        }
        labels = torch.arange(start, start + len(batch)) % len(classes)
        scores.add(batch, labels, (streams["appearance"] + streams["motion"]) / 2, streams)
    return scores


def reordered(scores: VideoScores, order: list[int]) -> VideoScores:
    """The same videos in another order, or some of them."""
    return replace(
        scores,
        videos=[scores.videos[i] for i in order],
        labels=[scores.labels[i] for i in order],
        rows=[scores.rows[i] for i in order],
        streams={name: [rows[i] for i in order] for name, rows in scores.streams.items()},
    )
