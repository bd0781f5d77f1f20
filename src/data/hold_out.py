"""A part of the training list in the place of the test list, to choose settings by."""

from collections import defaultdict

import numpy as np

from src.data.splits import Split, Video

_SEED = 7  # the same for every run: what is chosen between must be tested on the same videos


def hold_out(split: Split, share: float) -> Split:
    """Train on a part of the training list, and test on the rest of it; its test list is not used.

    Of each class whole groups are held out, those of one film or scene, until they are at least
    this share of its videos; one group is always trained on.

    Args:
        split: of a dataset.
        share: of each class's training videos, in 0..1.
    """
    groups: dict[tuple[int, str], list[Video]] = defaultdict(list)
    for video in split.train:
        groups[video.label, video.group or video.name].append(video)
    held: set[str] = set()
    for label in range(len(split.classes)):
        own = sorted(name for of, name in groups if of == label)
        wanted = share * sum(len(groups[label, name]) for name in own)
        taken = 0
        for name in np.random.default_rng((_SEED, label)).permutation(own)[: len(own) - 1]:
            if taken >= wanted:
                break
            members = groups[label, str(name)]
            held |= {str(video.path) for video in members}
            taken += len(members)
    return Split(
        split.classes,
        tuple(video for video in split.train if str(video.path) not in held),
        tuple(video for video in split.train if str(video.path) in held),
    )
