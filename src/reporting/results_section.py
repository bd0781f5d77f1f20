"""The table of results: one line for each row, and one for each published number not repeated."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from src.models.temporal import STREAMS
from src.reporting.collect import LATE_FUSION
from src.reporting.document import Cell, Column, Section, Table
from src.reporting.published import Published, published_of, read_published, unlike
from src.reporting.records import Run
from src.reporting.rows import Figure, Row, describe_runs

COLUMNS = (
    Column("trained", "experiment, stage, and the options by which rows differ"),
    Column("dataset"),
    Column("protocol", "how it was tested, see below the table"),
    Column("runs", "splits and seeds, and how many runs that makes"),
    Column("top-1 %", "video level; mean and sample standard deviation of the runs", True),
    *(
        Column(f"{stream} head", "top-1 % of one classifier of a net that has two", True)
        for stream in STREAMS
    ),
    Column("mean class %", "the classes' mean accuracy; mean and standard deviation", True),
    Column("published", "top-1 % in the paper, mean of three splits; source below", True),
    Column("difference", "points; in brackets if the two are not alike, see the notes", True),
    Column("notes"),
)
NOT_RUN = "not run"


@dataclass
class _Legend:
    """Marks for long texts, in the order in which they are first met."""

    what: str
    marks: str
    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return self.marks[self.texts.index(text) % len(self.marks)]

    def lines(self) -> list[str]:
        return [f"{self.what} {self.mark(text)}: {text}" for text in self.texts]


@dataclass(frozen=True)
class _Legends:
    protocols: _Legend
    sources: _Legend


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """By dataset, experiment and stage: streams first, then their fusion, then joint nets."""
    experiments = [one.experiment for one in read_published() if one.experiment]
    stages = [*STREAMS, LATE_FUSION]

    def place(row: Row) -> tuple[str | int, ...]:
        first = row.first
        known = first.experiment in experiments
        return (
            first.dataset,
            experiments.index(first.experiment) if known else len(experiments),
            first.experiment,
            stages.index(first.stage) if first.stage in stages else len(stages),
            row.name,
            first.protocol,
        )

    return sorted(rows, key=place)


def results_section(rows: Sequence[Row]) -> Section:
    """The table of sorted rows; after those of a dataset its numbers that no row repeats."""
    legends = _Legends(_Legend("protocol", "123456789"), _Legend("source", "abcdefghi"))
    missing = missing_numbers(rows)
    datasets = sorted({row.first.dataset for row in rows} | {one.dataset for one in missing})
    lines: list[list[Cell]] = []
    for dataset in datasets:
        lines += [_line(row, legends) for row in rows if row.first.dataset == dataset]
        lines += [_missing_line(one, legends) for one in missing if one.dataset == dataset]
    notes = [*legends.protocols.lines(), *legends.sources.lines()]
    return Section("Results", Table(COLUMNS, lines), notes)


def missing_numbers(rows: Sequence[Row]) -> list[Published]:
    """Published numbers that no row repeats, of the datasets that rows are of; of all, if none."""
    repeated = {published_of(row) for row in rows}
    datasets = {row.first.dataset for row in rows}
    return [
        one
        for one in read_published()
        if one not in repeated and (one.dataset in datasets or not datasets)
    ]


def _line(row: Row, legends: _Legends) -> list[Cell]:
    protocol = row.first.protocol
    published = published_of(row)
    remarks = unlike(row, published) if published else []
    if any(run.faults for run in row.runs):
        remarks.append("videos were missing or broken, see below")
    return [
        Cell(row.name),
        Cell(row.first.dataset),
        Cell(legends.protocols.mark(protocol), hover=protocol),
        Cell(describe_runs(row.runs), len(row.runs), "\n".join(str(r.folder) for r in row.runs)),
        _figure([(run, run.accuracy.top1) for run in row.runs], len(row.runs)),
        *(_head(row.runs, stream) for stream in STREAMS),
        _figure([(run, run.accuracy.mean_class) for run in row.runs], len(row.runs)),
        _published(published, legends),
        _difference(row, published, bool(remarks)),
        Cell("; ".join(remarks)),
    ]


def _head(runs: Sequence[Run], stream: str) -> Cell:
    numbers = [(run, run.heads[stream].top1) for run in runs if stream in run.heads]
    return _figure(numbers, len(runs))


def _figure(numbers: Sequence[tuple[Run, float]], runs: int) -> Cell:
    """Mean and deviation; how many there are, if not all of `runs` runs have the number."""
    if not numbers:
        return Cell()
    figure = Figure.of([number for _, number in numbers])
    each = (f"split {run.split}, seed {run.seed}: {number:.1f}" for run, number in numbers)
    text = str(figure) if len(numbers) == runs else f"{figure} (n={len(numbers)})"
    return Cell(text, figure.mean, "\n".join(each))


def _published(published: Published | None, legends: _Legends) -> Cell:
    if published is None:
        return Cell()
    mark = legends.sources.mark(published.origin)
    hover = f"{published.model}: {published.origin}"
    return Cell(f"{published.top1:.1f} {mark}", published.top1, hover)


def _difference(row: Row, published: Published | None, bracketed: bool) -> Cell:
    if published is None:
        return Cell()
    points = fmean(run.accuracy.top1 for run in row.runs) - published.top1
    return Cell(f"({points:+.1f})" if bracketed else f"{points:+.1f}", points)


def _missing_line(published: Published, legends: _Legends) -> list[Cell]:
    protocol = published.protocol
    return [
        Cell(published.model),
        Cell(published.dataset),
        Cell(legends.protocols.mark(protocol), hover=protocol) if protocol else Cell(),
        Cell(NOT_RUN if published.command else "", hover=published.command or ""),
        *[Cell()] * 4,
        _published(published, legends),
        Cell(),
        Cell("" if published.command else "nothing here trains it"),
    ]
