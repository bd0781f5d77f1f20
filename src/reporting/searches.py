"""Searches by Optuna: a table of the trials of each, and how to repeat the best."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.commands import shown_command
from src.errors import UserError
from src.reporting.collect import starts
from src.reporting.document import Cell, Column, Section, Table
from src.training.search import ARGUMENTS, FOLDER, JOURNALS, PRUNED, open_study, values_of

if TYPE_CHECKING:
    import optuna


def search_sections(places: Sequence[str]) -> list[Section]:
    """A section for each search whose file lies in one of the folders, or below."""
    found = [file for place in starts(places) for file in place.rglob(JOURNALS)]
    files = {file.resolve(): file for file in found}
    return [_section(file) for file in sorted(files.values())]


def _section(file: Path) -> Section:
    title = f"Search {file}"
    try:
        study = open_study(file)
    except UserError as error:
        return Section(title, lines=[str(error)])
    trials = [trial for trial in study.trials if trial.params]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    columns = [
        Column("trial", "in the order in which they were run", True),
        Column("top-1 %", "of validation videos, after all passes", True),
        Column("state"),
        Column("passes", "after which clip-level accuracy was reported", True),
        Column("best pass %", "clip-level top-1 of the best of them", True),
        *(Column(key) for key in keys),
    ]
    rows = [[*_cells(trial), *(_value(trial.params.get(key)) for key in keys)] for trial in trials]
    lines = ["The best of many owes something to the videos it was chosen by: test it on others."]
    if not any(trial.value is not None for trial in trials):
        return Section(title, Table(columns, rows), lines)
    best = study.best_trial
    lines.append(f"best: trial {best.number}, {best.user_attrs.get(FOLDER, 'folder unknown')}")
    given = study.user_attrs.get(ARGUMENTS, [])
    # Without -m, and without how to search.
    overrides = ["hydra.mode=RUN", *(one for one in given if not one.startswith("hydra"))]
    overrides += values_of(best.params)
    return Section(title, Table(columns, rows), lines, [shown_command("train", *overrides)])


def _cells(trial: "optuna.trial.FrozenTrial") -> list[Cell]:
    passes = trial.intermediate_values
    state = trial.state.name.lower()
    if PRUNED in trial.user_attrs:
        state = f"pruned after pass {trial.user_attrs[PRUNED]}"
    value = trial.value if state == "complete" else None
    return [
        Cell(str(trial.number), trial.number),
        Cell(f"{value:.1f}", value) if value is not None else Cell(),
        Cell(state),
        Cell(str(len(passes)), len(passes)),
        Cell(f"{100 * max(passes.values()):.1f}", max(passes.values())) if passes else Cell(),
    ]


def _value(value: object) -> Cell:
    if isinstance(value, float):
        return Cell(f"{value:.4g}", value)
    return Cell("" if value is None else str(value))
