"""Predictions as a table on the screen and as rows of a file, written as they are found."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.text import visible


@dataclass(frozen=True)
class Prediction:
    """One of the most probable classes of a video, or of a window start..end in it, in seconds."""

    video: str
    rank: int
    label: str
    probability: float
    start: float | None = None
    end: float | None = None

    def row(self) -> dict[str, Any]:
        """Its columns; those of a window only if it is of one."""
        row = asdict(self)
        window = {name: row.pop(name) for name in ("start", "end")}
        return {"video": self.video} | (window if self.start is not None else {}) | row


class PredictionFile:
    """Rows in a .json or a CSV file, on the disk as soon as they are given.

    There is no file before there is a row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._json = path.suffix == ".json"

    def __enter__(self) -> Self:
        return self

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Write some rows; the first one's columns are those of all."""
        for prediction in predictions:
            row = prediction.row()
            first = self._file is None
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w", newline="", encoding="utf-8", errors="replace")
            if self._json:
                self._file.write(("[\n" if first else ",\n") + json.dumps(row))
                continue
            writer = csv.DictWriter(self._file, list(row))
            if first:
                writer.writeheader()
            writer.writerow(row)
        if self._file is not None:
            self._file.flush()

    @property
    def written(self) -> bool:
        """Whether there are rows."""
        return self._file is not None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.write("\n]\n" if self._json else "")
            self._file.close()


def show_predictions(predictions: Sequence[Prediction]) -> None:
    """Print a table with a row per video and class."""
    table = Table()
    for column in ("video", "rank", "class", "probability"):
        table.add_column(column)
    for p in predictions:
        video = escape(visible(p.video)) if p.rank == 1 else ""
        label = escape(visible(p.label))
        table.add_row(video, str(p.rank), label, f"{p.probability:.3f}")
    Console().print(table)
