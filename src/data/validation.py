"""A validation part out of the training list, for datasets that come without one."""

from collections import Counter, defaultdict
from dataclasses import replace

from src.data.folds import fold_of_groups
from src.data.splits import Split, Video

_SEED = 7  # the same for every run: what is chosen between must be validated on the same videos


def with_validation(split: Split, fraction: float) -> Split:
    """Move a part of the training list to the validation part; the test list stays as it is.

    Of each class whole groups are moved, those of one film or scene, as near to this fraction of
    its videos as they allow; one group is always trained on.

    Args:
        split: of a dataset.
        fraction: of each class's training videos, in 0..1.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for video in split.train:
        counts[_group(video)][video.label] += 1
    moved = {group for group, fold in fold_of_groups(counts, fraction, _SEED).items() if fold == 1}
    for label in range(len(split.classes)):
        own = sorted(group for group in counts if label in counts[group])
        if own and moved.issuperset(own):  # of a fraction near 1
            moved.remove(min(own, key=lambda group: counts[group].total()))
    return replace(
        split,
        train=tuple(video for video in split.train if _group(video) not in moved),
        val=tuple(video for video in split.train if _group(video) in moved),
    )


def _group(video: Video) -> str:
    """Within its class: official lists divide a film's clips of two classes, too."""
    return f"{video.label}/{video.alike}"
