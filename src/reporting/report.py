"""The report: runs are collected, grouped, compared, and written in every form."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from string import ascii_lowercase
from typing import TYPE_CHECKING

from rich.console import Console

from src import __version__
from src.models.temporal import STREAMS
from src.reporting.collect import Run, collect, starts
from src.reporting.details import details
from src.reporting.groups import (
    MeanStd,
    Paired,
    Published,
    ResultGroup,
    describe_runs,
    group_runs,
    missing_numbers,
    pair_groups,
    published_of,
    unlike,
)
from src.reporting.page import Cell, Column, Section, show, to_page
from src.training.search import ARGUMENTS, FOLDER, JOURNALS, PRUNED, open_study, values_of
from src.utils.commands import shown_command
from src.utils.errors import UserError, without_controls
from src.utils.files import atomic_write, write_csv

if TYPE_CHECKING:
    import optuna

Legend = dict[str, str]  # short marks of long texts

RESULT_COLUMNS = (
    Column("trained", "experiment, stage, and the overrides by which rows differ"),
    Column("dataset"),
    Column("protocol", "how it was tested, see below the table"),
    Column("runs", "splits and seeds, and how many runs that makes"),
    Column("top-1 %", "video level; mean and sample standard deviation of the runs", True),
    *(
        Column(f"{stream} classifier", "top-1 % of one classifier of a net that has two", True)
        for stream in STREAMS
    ),
    Column("mean class %", "the classes' mean accuracy; mean and standard deviation", True),
    Column("published", "top-1 % in the paper, mean of three splits; source below", True),
    Column("difference", "points; in brackets if the two are not alike, see the notes", True),
    Column("notes"),
)
PAIRED_COLUMNS = (
    Column("trained"),
    Column("baseline"),
    Column("pairs", "splits and seeds that both have", True),
    Column("smallest", "difference of top-1 in points", True),
    Column("mean", "difference of top-1 in points", True),
    Column("largest", "difference of top-1 in points", True),
    Column("each", "split/seed and difference in points"),
    Column("notes"),
)
SEARCH_COLUMNS = (
    Column("trial", "in the order in which they were run", True),
    Column("top-1 %", "of validation videos, after all epochs", True),
    Column("state"),
    Column("epochs", "after which clip-level accuracy was reported", True),
    Column("best epoch %", "clip-level top-1 of the best of them", True),
)


def make_report(
    runs: Sequence[str],
    output: str,
    baseline: str | None = None,
    console: Console | None = None,
    most_details: int = 20,
) -> list[Section]:
    """Report all finished runs on the terminal (or a console) and in report.html and report.csv.

    conf/report.yaml describes the arguments.

    Returns:
        What is printed.

    Raises:
        UserError: a folder does not exist or cannot be written to, or no row is the baseline.
    """
    finished, skipped = collect(runs)
    groups = group_runs(finished)
    sections = [results_section(groups)]
    if faults := [
        f"{run.folder}: {about}" for g in groups for run in g.runs for about in run.faults
    ]:
        sections.append(Section("Missing or broken videos", lines=faults))
    if baseline is not None:
        sections.append(_paired_section(pair_groups(groups, baseline), baseline))
    files = {file.resolve() for place in starts(runs) for file in place.rglob(JOURNALS)}
    sections += [_search_section(file) for file in sorted(files)]
    if commands := [number.command for number in missing_numbers(groups) if number.command]:
        why = ["All splits, one after the other; what is finished is not trained again."]
        sections.append(Section("Not run", lines=why, code=list(dict.fromkeys(commands))))
    if skipped:
        lines = [f"{folder}: {reason}" for folder, reason in skipped.items()]
        sections.append(Section("Skipped", lines=lines))
    every = [*sections, *details(groups, most_details)]
    page, folder = to_page(f"Results, version {__version__}", every), Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "report.html") as draft:
            draft.write_text(without_controls(page), encoding="utf-8", newline="")
        write_csv(folder / "report.csv", _rows_of_runs(groups))
    except OSError as error:
        raise UserError(f"output={output} cannot be written to ({error.strerror})") from error
    show(sections, console)
    return sections


def results_section(groups: Sequence[ResultGroup]) -> Section:
    """A line for each group, and after those of a dataset one for each number not repeated."""
    protocols: Legend = {}
    sources: Legend = {}
    missing = missing_numbers(groups)
    datasets = sorted({g.first.dataset for g in groups} | {number.dataset for number in missing})
    rows: list[list[Cell]] = []
    for dataset in datasets:
        of_dataset = [group for group in groups if group.first.dataset == dataset]
        rows += [_result_row(group, protocols, sources) for group in of_dataset]
        rows += [_missing_row(p, protocols, sources) for p in missing if p.dataset == dataset]
    lines = [f"protocol {mark}: {text}" for text, mark in protocols.items()]
    lines += [f"source {mark}: {text}" for text, mark in sources.items()]
    return Section("Results", RESULT_COLUMNS, rows, lines)


def _result_row(group: ResultGroup, protocols: Legend, sources: Legend) -> list[Cell]:
    runs, protocol = group.runs, group.first.protocol
    published = published_of(group)
    notes = unlike(group, published) if published else []
    if any(run.faults for run in runs):
        notes.append("videos were missing or broken, see below")
    difference = Cell()
    if published:
        points = fmean(run.accuracy.top1 for run in runs) - published.top1
        difference = Cell(f"({points:+.1f})" if notes else f"{points:+.1f}", points)
    classifiers = [
        [(r, r.classifiers[s].top1) for r in runs if s in r.classifiers] for s in STREAMS
    ]
    return [
        Cell(group.label),
        Cell(group.first.dataset),
        _protocol(protocols, protocol),
        Cell(describe_runs(runs), len(runs), "\n".join(str(run.folder) for run in runs)),
        _mean([(run, run.accuracy.top1) for run in runs], len(runs)),
        *(_mean(numbers, len(runs)) for numbers in classifiers),
        _mean([(run, run.accuracy.mean_class) for run in runs], len(runs)),
        _published(published, sources) if published else Cell(),
        difference,
        Cell("; ".join(notes)),
    ]


def _protocol(protocols: Legend, protocol: str) -> Cell:
    return Cell(protocols.setdefault(protocol, str(len(protocols) + 1)), hover=protocol)


def _mean(numbers: Sequence[tuple[Run, float]], runs: int) -> Cell:
    """Mean and deviation; how many there are, if not all of `runs` runs have the number."""
    if not numbers:
        return Cell()
    mean = MeanStd.of([number for _, number in numbers])
    each = (f"split {run.split}, seed {run.seed}: {number:.1f}" for run, number in numbers)
    text = str(mean) if len(numbers) == runs else f"{mean} (n={len(numbers)})"
    return Cell(text, mean.mean, "\n".join(each))


def _published(published: Published, sources: Legend) -> Cell:
    mark = sources.setdefault(published.source, ascii_lowercase[len(sources)])
    hover = f"{published.model}: {published.source}"
    return Cell(f"{published.top1:.1f} {mark}", published.top1, hover)


def _missing_row(published: Published, protocols: Legend, sources: Legend) -> list[Cell]:
    protocol, command = published.protocol, published.command
    return [
        Cell(published.model),
        Cell(published.dataset),
        _protocol(protocols, protocol) if protocol else Cell(),
        Cell("not run" if command else "", hover=command or ""),
        *[Cell()] * 4,
        _published(published, sources),
        Cell(),
        Cell("" if command else "nothing here trains it"),
    ]


def _paired_section(pairs: Sequence[Paired], baseline: str) -> Section:
    line = "Top-1 against the baseline of the same dataset and protocol, by split and seed."
    if not pairs:
        line = f"No other row has the dataset and protocol of {baseline}."
    return Section("Paired differences", PAIRED_COLUMNS, [_paired_row(p) for p in pairs], [line])


def _paired_row(paired: Paired) -> list[Cell]:
    values = list(paired.differences.values())
    numbers = (min(values), fmean(values), max(values)) if values else ()
    each = ", ".join(f"{key[0]}/{key[1]} {d:+.1f}" for key, d in paired.differences.items())
    alone = ", ".join(f"{split}/{seed}" for split, seed, _ in paired.unpaired)
    return [
        Cell(paired.group.label),
        Cell(paired.baseline.label),
        Cell(str(len(values)), len(values)),
        *([Cell(f"{number:+.1f}", number) for number in numbers] or [Cell()] * 3),
        Cell(each),
        Cell(f"in one of the two only: {alone}" if alone else ""),
    ]


def _search_section(file: Path) -> Section:
    """The trials of a search by Optuna, and how to repeat the best."""
    title = f"Search {file}"
    try:
        study = open_study(file)
    except UserError as error:
        return Section(title, lines=[str(error)])
    trials = [trial for trial in study.trials if trial.params]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    columns = [*SEARCH_COLUMNS, *map(Column, keys)]
    rows = [[*_trial(trial), *(_value(trial.params.get(key)) for key in keys)] for trial in trials]
    lines = ["The best of many owes something to the videos it was chosen by: test it on others."]
    if not any(trial.value is not None for trial in trials):
        return Section(title, columns, rows, lines)
    best = study.best_trial
    lines.append(f"best: trial {best.number}, {best.user_attrs.get(FOLDER, 'folder unknown')}")
    given = study.user_attrs.get(ARGUMENTS, [])
    # Without -m, and without how to search.
    overrides = ["hydra.mode=RUN", *(text for text in given if not text.startswith("hydra"))]
    overrides += values_of(best.params)
    return Section(title, columns, rows, lines, [shown_command("train", *overrides)])


def _trial(trial: "optuna.trial.FrozenTrial") -> list[Cell]:
    epochs = trial.intermediate_values
    state = trial.state.name.lower()
    if PRUNED in trial.user_attrs:
        state = f"pruned after epoch {trial.user_attrs[PRUNED]}"
    value = trial.value if state == "complete" else None
    return [
        Cell(str(trial.number), trial.number),
        Cell(f"{value:.1f}", value) if value is not None else Cell(),
        Cell(state),
        Cell(str(len(epochs)), len(epochs)),
        Cell(f"{100 * max(epochs.values()):.1f}", max(epochs.values())) if epochs else Cell(),
    ]


def _value(value: object) -> Cell:
    if isinstance(value, float):
        return Cell(f"{value:.4g}", value)
    return Cell("" if value is None else str(value))


def _rows_of_runs(groups: Sequence[ResultGroup]) -> list[list[object]]:
    """A row for each run and classifier, for other programs; what is not known is empty."""
    lines = [
        {
            "row": group.label,
            "experiment": run.experiment,
            "stage": run.stage,
            "overrides": group.overrides,
            "classifier": name,
            "dataset": run.dataset,
            "split": run.split,
            "seed": run.seed,
            **asdict(accuracy),
            "protocol": run.protocol,
            "project_version": run.version,
            "directory": str(run.folder),
            "command": "" if run.overrides is None else shown_command("train", *run.overrides),
        }
        for group in groups
        for run in group.runs
        for name, accuracy in {"all": run.accuracy, **run.classifiers}.items()
    ]
    return [list(lines[0]), *(list(line.values()) for line in lines)] if lines else []
