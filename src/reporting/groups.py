"""Runs in groups that differ in split and seed alone, and what a group is compared with."""

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from src.experiment.compose import compose_config
from src.experiment.config import cannot_matter, stage_config
from src.experiment.init_from import weight_sources
from src.flow.settings import FlowSettings
from src.models.temporal import STREAMS
from src.reporting.collect import REPEATED, Identity, Run, identity
from src.training.late_fusion import LATE_FUSION, late_fusion_config
from src.utils.commands import shown_command
from src.utils.errors import UserError

SPLITS = [1, 2, 3]
_PUBLISHED = Path(__file__).with_name("published.csv")
_SHOWN_CHANGES = 3


@dataclass(frozen=True)
class MeanStd:
    """Mean of numbers, and their sample standard deviation if there are several."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanStd":
        """That of at least one number."""
        return cls(statistics.fmean(values), statistics.stdev(values) if values[1:] else None)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.std is None else f" ± {self.std:.1f}")


@dataclass(frozen=True)
class ResultGroup:
    """Runs of one experiment, stage, protocol and identity, by split and seed.

    `overrides` are those that distinguish it from other groups of its experiment and stage.
    """

    runs: tuple[Run, ...]
    overrides: str

    @property
    def first(self) -> Run:
        """A run that speaks for all in what they share."""
        return self.runs[0]

    @property
    def label(self) -> str:
        """Experiment, stage and overrides."""
        return " ".join(filter(None, (self.first.experiment, self.first.stage, self.overrides)))

    @property
    def run_dirs(self) -> set[Path]:
        """Where its stages lie, with those that they were trained with."""
        return {run.folder.parent for run in self.runs}


def group_runs(runs: Iterable[Run]) -> list[ResultGroup]:
    """Groups by dataset, experiment and stage: streams first, their fusion, then joint nets."""
    alike: dict[object, list[Run]] = defaultdict(list)
    for run in runs:
        alike[run.trained].append(run)
    of_stage: dict[object, list[list[Run]]] = defaultdict(list)
    for members in alike.values():
        of_stage[members[0].experiment, members[0].stage].append(members)
    groups = [
        ResultGroup(tuple(sorted(members, key=lambda run: (run.split, run.seed))), text)
        for rivals in of_stage.values()
        for members, text in zip(rivals, _tell_apart(rivals), strict=True)
    ]
    experiments = [row.experiment for row in read_published()]
    stages = [*STREAMS, LATE_FUSION]

    def place(group: ResultGroup) -> tuple[str | int, ...]:
        run = group.first
        known = experiments.index(run.experiment) if run.experiment in experiments else 99
        stage = stages.index(run.stage) if run.stage in stages else len(stages)
        return (run.dataset, known, run.experiment, stage, group.label, run.protocol)

    return sorted(groups, key=place)


def _tell_apart(groups: Sequence[Sequence[Run]]) -> list[str]:
    """For each group the overrides that others lack; where they are the same, what else differs."""
    given = [_overrides(group) for group in groups]
    shared = set.intersection(*map(set, given))
    texts = [[text for text in overrides if text not in shared] for overrides in given]
    identities = [group[0].identity for group in groups]
    while True:
        same = defaultdict(list)
        for index, text in enumerate(texts):
            same[tuple(text)].append(index)
        clashes = [those for those in same.values() if differing([identities[i] for i in those])]
        if not clashes:
            return [" ".join(text) for text in texts]
        for those in clashes:
            key = differing([identities[index] for index in those])[0]
            for index in those:
                texts[index].append(_setting(key, identities[index]))


def _overrides(runs: Sequence[Run]) -> list[str]:
    """Those of all commands of a group that may matter and do not name its experiment or split."""
    named = ("experiment", "sweep", *REPEATED)

    def matters(override: str) -> bool:
        key = override.partition("=")[0].lstrip("+~")
        return not cannot_matter(key) and key not in named and not key.startswith("hydra")

    first, *others = [run.overrides or () for run in runs]
    return [text for text in first if matters(text) and all(text in other for other in others)]


def differing(identities: Sequence[Identity]) -> list[str]:
    """The keys in which identities differ."""
    keys = dict.fromkeys(key for identity in identities for key in identity)
    return [key for key in keys if len({identity.get(key) for identity in identities}) > 1]


def _setting(key: str, of: Identity) -> str:
    return f"{key.removesuffix('._target_')}={of.get(key, 'null')}"


def describe_runs(runs: Sequence[Run]) -> str:
    """Splits, seeds and how many runs there are, e.g. "split 1-3, seed 0, n=3"."""
    splits, seeds = _span(run.split for run in runs), _span(run.seed for run in runs)
    return f"split {splits}, seed {seeds}, n={len(runs)}"


def _span(numbers: Iterable[int]) -> str:
    ordered = sorted(set(numbers))
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}-{ordered[-1]}"
    return ", ".join(map(str, ordered))


SplitAndSeed = tuple[int, int, int]  # and the seed that the dataset was drawn with


@dataclass(frozen=True)
class Paired:
    """A group against a baseline of its dataset and protocol: what pairs share, both have."""

    group: ResultGroup
    baseline: ResultGroup
    # Top-1 of the group minus that of the baseline in points, for each split and seed that both
    # have; of several runs of the same the mean counts.
    differences: dict[SplitAndSeed, float]
    unpaired: list[SplitAndSeed]  # that one of them lacks


def pair_groups(groups: Sequence[ResultGroup], baseline: str) -> list[Paired]:
    """Pair every group with the baseline of its dataset and protocol, named by its label or a part.

    Of several such groups one out of the same run directories is taken, else one of the same
    experiment.

    Raises:
        UserError: no group or several groups can be meant.
    """
    exact = [group for group in groups if group.label == baseline]
    meant = exact or [group for group in groups if baseline in group.label]
    if not meant:
        known = "; ".join(sorted(group.label for group in groups)) or "no finished run"
        raise UserError(f"baseline={baseline} is in no row's name: there are {known}")
    pairs = []
    for group in groups:
        if group in meant:
            continue
        run = group.first
        alike = (run.dataset, run.protocol)
        fitting = [g for g in meant if (g.first.dataset, g.first.protocol) == alike]
        same = [g for g in fitting if g.run_dirs & group.run_dirs]
        fitting = same or [g for g in fitting if g.first.experiment == run.experiment] or fitting
        if len(fitting) > 1:
            names = "; ".join(g.label for g in fitting)
            raise UserError(f"baseline={baseline} is in the names of several rows: {names}")
        for base in fitting:
            top1, base_top1 = _top1(group), _top1(base)
            shared = sorted(top1.keys() & base_top1.keys())
            differences = {key: top1[key] - base_top1[key] for key in shared}
            pairs.append(Paired(group, base, differences, sorted(top1.keys() ^ base_top1.keys())))
    return pairs


def _top1(group: ResultGroup) -> dict[SplitAndSeed, float]:
    runs = defaultdict(list)
    for run in group.runs:
        runs[run.split, run.seed, run.drawn].append(run.accuracy.top1)
    return {key: statistics.fmean(values) for key, values in runs.items()}


@dataclass(frozen=True)
class Published:
    """A number out of a paper: top-1 in percent, the mean over the three splits."""

    model: str
    dataset: str
    top1: float
    rows: str  # pattern of "experiment/stage" of what repeats it here; "" if nothing does
    experiment: str  # that trains it here; "" if none does
    protocol: str  # of the published test; "" if nothing here repeats it
    source: str  # where the number is known from, and whether nobody has looked it up

    @property
    def command(self) -> str | None:
        """What trains it on all splits; None if nothing here does."""
        if not self.experiment:
            return None
        splits = ",".join(map(str, SPLITS))
        return shown_command("train", "-m", f"experiment={self.experiment}", f"data.split={splits}")


@cache
def read_published() -> tuple[Published, ...]:
    """All published numbers, in the order in which they are shown."""
    with _PUBLISHED.open(newline="", encoding="utf-8") as file:
        lines: Iterable[dict[str, Any]] = csv.DictReader(file)
        return tuple(Published(**line | {"top1": float(line["top1"])}) for line in lines)


def published_of(group: ResultGroup) -> Published | None:
    """The number of the same model in a paper; None if not all test videos were tested."""
    run = group.first
    name = f"{run.experiment}/{run.stage}"
    for published in read_published() if not run.partial else ():
        if published.dataset == run.dataset and fnmatchcase(name, published.rows):
            return published
    return None


def missing_numbers(groups: Sequence[ResultGroup]) -> list[Published]:
    """Published numbers that no group repeats, of the groups' datasets; of all, if none."""
    repeated = {published_of(group) for group in groups}
    datasets = {group.first.dataset for group in groups}
    missing = [number for number in read_published() if number not in repeated]
    return [number for number in missing if number.dataset in datasets or not datasets]


def unlike(group: ResultGroup, published: Published) -> list[str]:
    """In which respects a group is not what was published; nothing if a comparison is fair."""
    notes = []
    splits = sorted({run.split for run in group.runs})
    if splits != SPLITS:
        plural = "s" if len(splits) > 1 else ""
        notes.append(f"split{plural} {', '.join(map(str, splits))} only")
    if group.first.protocol != published.protocol:
        notes.append("other protocol than published")
    trained = group.first.identity
    repeats = _identity_in_conf(published.experiment, group.first.stage)
    # Nothing is known of stages before that are gone, nor of flow whose folder does not say.
    unknown = tuple(
        key.rpartition(".")[0] + "."
        for key in repeats
        if key.endswith((".stage", "flow.algorithm")) and key not in trained
    )
    changes = [key for key in differing([trained, repeats]) if not key.startswith(unknown)]
    if changes:
        more = len(changes) - _SHOWN_CHANGES
        shown = ", ".join(_setting(key, trained) for key in changes[:_SHOWN_CHANGES])
        notes.append(f"changed: {shown}{f' and {more} more' if more > 0 else ''}")
    return notes


@cache
def _identity_in_conf(experiment: str, stage: str) -> Identity:
    """What a stage is as its experiment's file has it."""
    cfg = compose_config("train", f"experiment={experiment}")
    fusion = stage == LATE_FUSION
    config = stage_config(cfg, STREAMS[-1] if fusion else stage)
    config = late_fusion_config(config) if fusion else config
    sources = {part: name for part, name in weight_sources(config).items() if name in cfg.stages}
    before = {part: _identity_in_conf(experiment, str(name)) for part, name in sources.items()}
    flow = vars(FlowSettings()) if "flow" in config["data"]["modalities"] else None
    return identity({"config": config, "flow": flow}, before)
