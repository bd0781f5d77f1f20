"""Runs that differ in split and seed alone are a row: one line of the table."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.reporting.naming import name_options
from src.reporting.records import Run


@dataclass(frozen=True)
class Row:
    """Runs of one experiment, stage, protocol and settings."""

    runs: tuple[Run, ...]
    options: str

    @property
    def first(self) -> Run:
        """A run that speaks for all in what they share."""
        return self.runs[0]

    @property
    def name(self) -> str:
        """Experiment, stage and the options by which it differs from other rows of theirs."""
        return " ".join(filter(None, (self.first.experiment, self.first.stage, self.options)))

    @property
    def run_dirs(self) -> set[Path]:
        """Where its runs were made."""
        return {run.run_dir for run in self.runs}

    @property
    def splits(self) -> list[int]:
        """Splits that were run."""
        return sorted({run.split for run in self.runs})


@dataclass(frozen=True)
class Figure:
    """Mean of numbers, and their sample standard deviation if there are several."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """The figure of at least one number."""
        return cls(statistics.fmean(values), statistics.stdev(values) if values[1:] else None)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.std is None else f" ± {self.std:.1f}")


def group_rows(runs: Iterable[Run]) -> list[Row]:
    """Group runs by everything but split and seed, in no particular order."""
    alike = defaultdict(list)
    for run in runs:
        what = (run.experiment, run.stage, run.dataset, run.protocol)
        alike[what, run.trained].append(run)
    named: list[Row] = []
    for experiment, stage in sorted({what[:2] for what, _ in alike}):
        groups = [group for (what, _), group in alike.items() if what[:2] == (experiment, stage)]
        options = name_options([dict(group[0].settings) for group in groups])
        for group, text in zip(groups, options, strict=True):
            named.append(Row(tuple(sorted(group, key=lambda r: (r.split, r.seed))), text))
    return named


def describe_runs(runs: Sequence[Run]) -> str:
    """Splits, seeds and how many runs there are, e.g. "split 1-3, seed 0, n=3"."""
    seeds = defaultdict(set)
    for run in runs:
        seeds[run.split].add(run.seed)
    if len({frozenset(those) for those in seeds.values()}) == 1:
        of_all = next(iter(seeds.values()))
        text = f"split {_span(seeds)}, seed {_span(of_all)}"
    else:
        text = "; ".join(f"split {split}, seed {_span(seeds[split])}" for split in sorted(seeds))
    times = Counter((run.split, run.seed) for run in runs)
    if len(set(times.values())) == 1:
        often = next(iter(times.values()))
        text += f", {often} runs of each" if often > 1 else ""
    else:
        repeated = [f"{often} of {s}/{seed}" for (s, seed), often in times.items() if often > 1]
        text += f" ({', '.join(repeated)})"
    return f"{text}, n={len(runs)}"


def _span(numbers: Iterable[int]) -> str:
    ordered = sorted(set(numbers))
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}-{ordered[-1]}"
    return ", ".join(map(str, ordered))
