"""Video-level results as a table, on the terminal and as a file."""

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from src.data.faults import Faults
from src.evaluation.scores import Accuracy
from src.utils.console import table
from src.utils.errors import visible
from src.utils.files import write_csv


@dataclass(frozen=True)
class Result:
    """One row of the table; `stage` names the directory with the scores it is made of.

    `faults` tell of videos that were not as they should be, in training or in the test.
    """

    name: str
    stage: str
    accuracy: Accuracy
    protocol: str
    faults: tuple[Faults, ...] = ()


def show_results(results: list[Result], title: str) -> None:
    """Print the table and under it the protocol; if there are several, each row's number of it.

    The title may be a path: it stays on a line, however narrow the table is.

    Videos that count as wrong without having been read are shown beside the number of all, and what
    was wrong with a row's videos under the table.
    """
    protocols = list(dict.fromkeys(result.protocol for result in results))
    several = len(protocols) > 1
    columns = ["", "top-1 %", "top-5 %", "mean class %", "videos", *(["protocol"] * several)]
    lines = [
        f"protocol{f' {number}' if several else ''}: {visible(protocol)}"
        for number, protocol in enumerate(protocols, start=1)
    ]
    rows = []
    for result in results:
        accuracy = result.accuracy
        numbers = (accuracy.top1, accuracy.top5, accuracy.mean_class)
        wrong = f" ({accuracy.unreadable} unreadable)" if accuracy.unreadable else ""
        row = [result.name, *(f"{n:.1f}" for n in numbers), f"{accuracy.videos}{wrong}"]
        rows.append([*row, str(1 + protocols.index(result.protocol))] if several else row)
        lines += [f"{visible(result.name)}: {faults}" for faults in result.faults]
    console = Console()
    console.print(visible(title), style="italic", markup=False, highlight=False, soft_wrap=True)
    console.print(table(columns, rows, left=[""]))
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def save_results(results: list[Result], path: Path) -> None:
    """Write the table as CSV."""
    columns = ["name", "stage", *Accuracy.__dataclass_fields__, "protocol"]
    rows = ([r.name, r.stage, *asdict(r.accuracy).values(), r.protocol] for r in results)
    write_csv(path, [columns, *rows])
