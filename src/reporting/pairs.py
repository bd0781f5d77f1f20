"""Differences to a baseline row, run by run: what pairs share, they owe to neither."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from src.errors import UserError
from src.reporting.records import Run
from src.reporting.rows import Row

SplitAndSeed = tuple[int, int, int]  # and the seed that the dataset was drawn with


@dataclass(frozen=True)
class Paired:
    """A row against its baseline.

    Args:
        row: that is compared.
        baseline: of the same dataset and protocol.
        differences: top-1 of the row minus that of the baseline in points, for each split and seed
            that both have; the mean of several runs of the same.
        unpaired: splits and seeds that one of them lacks.
    """

    row: Row
    baseline: Row
    differences: dict[SplitAndSeed, float]
    unpaired: list[SplitAndSeed]

    @property
    def mean(self) -> float:
        """Of at least one difference."""
        return statistics.fmean(self.differences.values())


def pair_rows(rows: Sequence[Row], baseline: str) -> list[Paired]:
    """Pair every row with the baseline of its dataset and protocol.

    Args:
        rows: in the order to show them.
        baseline: the name of a row or a part of it. Of several rows with the same dataset and
            protocol one out of the same run directories is taken, else one of the same experiment.

    Raises:
        UserError: no row or several rows can be meant.
    """
    exact = [row for row in rows if row.name == baseline]
    meant = exact or [row for row in rows if baseline in row.name]
    if not meant:
        known = "; ".join(sorted(row.name for row in rows)) or "no finished run"
        raise UserError(f"baseline={baseline} is in no row's name: there are {known}")
    pairs = []
    for row in rows:
        if row in meant:
            continue
        fitting = [
            one
            for one in meant
            if (one.first.dataset, one.first.protocol) == (row.first.dataset, row.first.protocol)
        ]
        same = [one for one in fitting if one.run_dirs & row.run_dirs]
        own = [one for one in fitting if one.first.experiment == row.first.experiment]
        fitting = same or own or fitting
        if len(fitting) > 1:
            names = "; ".join(one.name for one in fitting)
            raise UserError(f"baseline={baseline} is in the names of several rows: {names}")
        pairs += [_pair(row, one) for one in fitting]
    return pairs


def _pair(row: Row, baseline: Row) -> Paired:
    ours, theirs = _by_split_and_seed(row), _by_split_and_seed(baseline)
    differences = {
        key: statistics.fmean(_above(run, theirs[key]) for run in ours[key])
        for key in sorted(ours.keys() & theirs.keys())
    }
    return Paired(row, baseline, differences, sorted(ours.keys() ^ theirs.keys()))


def _by_split_and_seed(row: Row) -> dict[SplitAndSeed, list[Run]]:
    runs = defaultdict(list)
    for run in row.runs:
        runs[run.split, run.seed, run.drawn].append(run)
    return runs


def _above(run: Run, others: Sequence[Run]) -> float:
    """Points above the one of the same run directory, else above the mean of all."""
    beside = [other for other in others if other.run_dir == run.run_dir]
    return run.accuracy.top1 - statistics.fmean(one.accuracy.top1 for one in beside or others)
