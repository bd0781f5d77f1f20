"""Video-level results as a table, on the terminal and as a file."""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from src.evaluation.scores import Accuracy


@dataclass(frozen=True)
class Result:
    """One row of the table; `stage` names the directory with the scores it is made of."""

    name: str
    stage: str
    accuracy: Accuracy
    protocol: str


def show_results(results: list[Result], title: str) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left")
    for column in ("", "top-1 %", "top-5 %", "mean class %", "videos"):
        table.add_column(column, justify="right" if column else "left")
    for result in results:
        accuracy = result.accuracy
        numbers = (accuracy.top1, accuracy.top5, accuracy.mean_class)
        table.add_row(result.name, *(f"{n:.1f}" for n in numbers), str(accuracy.videos))
    console = Console()
    console.print(table)
    for protocol in dict.fromkeys(result.protocol for result in results):
        console.print(f"protocol: {protocol}")


def save_results(results: list[Result], path: Path) -> None:
    """Write the table as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "stage", *Accuracy.__dataclass_fields__, "protocol"])
        for r in results:
            writer.writerow([r.name, r.stage, *asdict(r.accuracy).values(), r.protocol])
