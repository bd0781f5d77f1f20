"""A part of the training list in the place of the test list, to choose settings by."""

from collections import Counter, defaultdict

from src.data.folds import fold_of_groups
from src.data.splits import Split, Video

_SEED = 7  # the same for every run: what is chosen between must be tested on the same videos


def hold_out(split: Split, share: float) -> Split:
    """Train on a part of the training list, and test on the rest of it; its test list is not used.

    Of each class whole groups are held out, those of one film or scene, as near to this share of
    its videos as they allow; one group is always trained on.

    Args:
        split: of a dataset.
        share: of each class's training videos, in 0..1.
    """
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for video in split.train:
        counts[_group(video)][video.label] += 1
    held = {group for group, fold in fold_of_groups(counts, share, _SEED).items() if fold == 1}
    for label in range(len(split.classes)):
        own = sorted(group for group in counts if label in counts[group])
        if own and held.issuperset(own):  # of a share near 1
            held.remove(min(own, key=lambda group: counts[group].total()))
    return Split(
        split.classes,
        tuple(video for video in split.train if _group(video) not in held),
        tuple(video for video in split.train if _group(video) in held),
    )


def _group(video: Video) -> str:
    """Within its class: official lists divide a film's clips of two classes, too."""
    return f"{video.label}/{video.group or video.name}"
