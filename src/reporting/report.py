"""The report: runs are collected, put into rows, compared, and written in every form."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from src import __version__
from src.errors import UserError
from src.reporting.collect import Collection, collect
from src.reporting.details import details
from src.reporting.document import Cell, Column, Document, Section, Table
from src.reporting.markdown import to_markdown
from src.reporting.page import to_page
from src.reporting.pairs import Paired, pair_rows
from src.reporting.results_section import missing_numbers, results_section, sort_rows
from src.reporting.rows import Row, group_rows
from src.reporting.runs_file import runs_csv
from src.reporting.searches import search_sections
from src.reporting.terminal import show_document

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


def make_report(
    runs: Sequence[str],
    output: str,
    baseline: str | None = None,
    console: Console | None = None,
    most_details: int = 20,
) -> Document:
    """Report all finished runs on the terminal and in report.md, report.html and report.csv.

    Args:
        runs: folders or patterns of folders, see `collect`.
        output: folder for the files.
        baseline: a row's name or a part of it, to which all others are compared run by run.
        console: to print on; None is the terminal.
        most_details: rows of which report.html shows a run with its curves, classes and videos.

    Raises:
        UserError: a folder does not exist or cannot be written to, or no row is the baseline.
    """
    collection = collect(runs)
    rows = sort_rows(group_rows(collection.runs))
    document = _compose(rows, collection, baseline, search_sections(runs))
    document = replace(document, details=details(rows, most_details))
    files = {
        "report.md": to_markdown(document),
        "report.html": to_page(document),
        "report.csv": runs_csv(rows),
    }
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"output={output} cannot be written to ({error.strerror})") from error
    show_document(document, console)
    return document


def _compose(
    rows: Sequence[Row], collection: Collection, baseline: str | None, searches: Sequence[Section]
) -> Document:
    sections = [results_section(rows)]
    faults = [f"{run.folder}: {one}" for row in rows for run in row.runs for one in run.faults]
    if faults:
        sections.append(Section("Missing or broken videos", lines=faults))
    if baseline is not None:
        sections.append(_paired_section(pair_rows(rows, baseline), baseline))
    sections += searches
    commands = [one.command for one in missing_numbers(rows) if one.command]
    if commands:
        why = ["All splits, one after the other; what is finished is not trained again."]
        sections.append(Section("Not run", lines=why, code=list(dict.fromkeys(commands))))
    if collection.problems:
        left_out = [f"{problem.folder}: {problem.reason}" for problem in collection.problems]
        sections.append(Section("Left out", lines=left_out))
    return Document(f"Results, version {__version__}", sections)


def _paired_section(pairs: Sequence[Paired], baseline: str) -> Section:
    about = [
        "Differences of top-1 to the baseline of the same dataset and protocol, each within one "
        "split and seed."
    ]
    if not pairs:
        about = [f"No other row has the dataset and protocol of {baseline}."]
    table = Table(PAIRED_COLUMNS, [_paired(one) for one in pairs])
    return Section("Paired differences", table, about)


def _paired(paired: Paired) -> list[Cell]:
    values = list(paired.differences.values())
    figures = (min(values), paired.mean, max(values)) if values else ()
    each = ", ".join(f"{key[0]}/{key[1]} {d:+.1f}" for key, d in paired.differences.items())
    alone = ", ".join(f"{split}/{seed}" for split, seed, _ in paired.unpaired)
    return [
        Cell(paired.row.name),
        Cell(paired.baseline.name),
        Cell(str(len(values)), len(values)),
        *([Cell(f"{figure:+.1f}", figure) for figure in figures] or [Cell()] * 3),
        Cell(each),
        Cell(f"in one of the two only: {alone}" if alone else ""),
    ]
