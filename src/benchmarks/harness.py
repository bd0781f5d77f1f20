"""Timing of contenders side by side, so that a noisy machine slows all of them alike.

Rounds go round the contenders, and a ratio is the median of the rounds' own ratios: what happens to
the machine between two rounds does not enter.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from src.errors import UserError

LIBRARIES = ("torch", "torchvision", "opencv-contrib-python-headless", "decord", "av", "numpy")
EXTRA = ("mmaction2", "pytorch-lightning", "triton")


@dataclass(frozen=True)
class Timed:
    """How many items were done in the part of a run that counts, and its seconds."""

    items: int
    seconds: float


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Args:
        name: for the table.
        run: does the work once and returns how many items (clips, frames, steps) that was; with
            the seconds, if it has timed itself.
        note: for the table's last column.
    """

    name: str
    run: Callable[[], int | Timed]
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A contender's figures: items per second, and how many times the baseline's that is."""

    name: str
    rate: float
    ratio: float
    lowest: float
    highest: float
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """One table: what was timed against which baseline, and how often."""

    title: str
    unit: str
    baseline: str
    rounds: int
    rows: list[Row]
    remarks: list[str] = field(default_factory=list)


def measure(
    title: str,
    unit: str,
    baseline: Contender,
    others: Sequence[Contender],
    rounds: int,
    remarks: Sequence[str] = (),
    warm: bool = False,
) -> Measurement:
    """Time all contenders in turns, after one round that does not count unless they are `warm`."""
    contenders = [baseline, *others]
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(int(warm), rounds + 1):
        for contender in contenders:
            start = time.perf_counter()
            done = contender.run()
            if not isinstance(done, Timed):
                done = Timed(done, time.perf_counter() - start)
            if turn:
                rates[contender.name].append(done.items / done.seconds)
    rows = []
    for contender in contenders:
        ratios = sorted(
            rate / base
            for rate, base in zip(rates[contender.name], rates[baseline.name], strict=True)
        )
        rows.append(
            Row(
                contender.name,
                statistics.median(rates[contender.name]),
                statistics.median(ratios),
                ratios[0],
                ratios[-1],
                contender.note,
            )
        )
    return Measurement(title, unit, baseline.name, rounds, rows, list(remarks))


def wait(device: torch.device) -> None:
    """Let a GPU finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    about = Path("/proc/cpuinfo")
    if about.is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in about.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    found = {}
    for library in (*LIBRARIES, *EXTRA):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "gpu": gpu,
        "python": platform.python_version(),
        **found,
    }


def show(measurement: Measurement, earlier: Measurement | None = None) -> None:
    """Print a table; with the ratios of an earlier measurement, if there is one."""
    table = Table(title=measurement.title, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in (f"{measurement.unit}/s", f"x {measurement.baseline}", "lowest - highest"):
        table.add_column(column, justify="right")
    before = {row.name: row.ratio for row in earlier.rows} if earlier else {}
    if earlier:
        table.add_column("before", justify="right")
    table.add_column("")
    for row in measurement.rows:
        spread = f"{row.lowest:.2f} - {row.highest:.2f}"
        cells = [row.name, f"{row.rate:.4g}", f"{row.ratio:.2f}", spread]
        if earlier:
            cells.append(f"{before[row.name]:.2f}" if row.name in before else "")
        table.add_row(*cells, row.note)
    console = Console()
    console.print(table)
    for remark in measurement.remarks:
        console.print(remark)
    console.print(f"medians of {measurement.rounds} rounds; ratios within a round")


def save(measurements: Sequence[Measurement], path: Path) -> None:
    """Write measurements and the machine as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "measurements": [asdict(m) for m in measurements]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def load(path: Path) -> dict[str, Measurement]:
    """Read what `save` wrote, by title.

    Raises:
        UserError: the file does not exist or is none of ours.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return {
            m["title"]: Measurement(**m | {"rows": [Row(**row) for row in m["rows"]]})
            for m in content["measurements"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no saved benchmark: {error}") from error
