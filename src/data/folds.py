"""Groups of videos dealt to splits, in equal shares of every class."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Label = TypeVar("Label", int, str)
_DIGITS = 9  # that shares are compared to: sums of them depend on the order


def fold_of_groups(
    counts: Mapping[str, Mapping[Label, int]], share: float, seed: int
) -> dict[str, int]:
    """The split, from 1, that tests each group of videos; 0 for none.

    There are as many splits as have tests of that share without a common video. Groups stay
    together, classes are divided in equal shares as far as groups allow. A group that a class has
    nothing beside is never tested; what a class of fewer groups than splits has is tested in the
    first splits.

    Args:
        counts: how many videos of each class a group has.
        share: of every class that a split tests, in 0..1.
        seed: of the order in which groups of the same size are dealt.
    """
    # One group after the other, large ones first, goes where its classes lack most.
    classes = sorted({label for of in counts.values() for label in of})
    groups = sorted(counts)
    members = np.array([[counts[group].get(label, 0) for label in classes] for group in groups])
    shares = members / members.sum(0)  # (groups, classes): of each class
    groups_of_class = (members > 0).sum(0)
    splits: int = int(1 / share + 1e-9)
    rest = max(0.0, 1 - splits * share)
    # What is there less what should be, of each class; 0 is for those that are never tested.
    filled = np.repeat([[-rest], *[[-share]] * splits], len(classes), axis=1)
    first = 0 if rest > 1e-9 else 1

    fold_of = {}
    order = np.random.default_rng(seed).permutation(len(groups))
    for place in sorted(order, key=lambda place: -round(shares[place].sum(), _DIGITS)):
        own, has = shares[place], members[place] > 0
        lacking = (filled @ own).round(_DIGITS)
        # The first splits test all classes that can be tested; else all splits grow alike.
        scarce = bool((groups_of_class[has] < splits).any())
        sizes = np.zeros(len(filled)) if scarce else filled.sum(1).round(_DIGITS)
        best = min(range(first, len(filled)), key=lambda fold: (lacking[fold], sizes[fold], fold))
        fold = 0 if (groups_of_class[has] == 1).any() else best
        filled[fold] += own
        fold_of[groups[place]] = fold
    return fold_of
