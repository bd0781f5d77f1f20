"""What a stage has logged, as curves."""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from src.models.temporal import STREAMS
from src.plotting.charts import Curve

# {} is the part that was validated on: test or validation.
LOSSES = {"train/loss_epoch": "training", "val/loss": "central {} clips"}
ACCURACIES = {"train/clip/top1": "training", "val/clip/top1": "central {} clips"} | {
    f"val/clip/top1_{stream}": f"central {{}} clips, {stream}" for stream in STREAMS
}
VALIDATION = "val/clip/top1"


def read_curves(stage_dir: Path, keys: Iterable[str]) -> dict[str, Curve]:
    """The last value of each key in every pass; a stage that went on has several files.

    A file that is missing, broken or of something else tells nothing.
    """
    values: dict[str, dict[int, float]] = {key: {} for key in keys}
    files = sorted(stage_dir.glob("csv/version_*/metrics.csv"), key=_version)
    for file in files:
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    _take(row, values)
        except (OSError, ValueError, csv.Error):
            continue
    return {
        key: Curve([one + 1 for one in sorted(by_pass)], [by_pass[one] for one in sorted(by_pass)])
        for key, by_pass in values.items()
        if by_pass
    }


def _take(row: Mapping[str, str | None], values: Mapping[str, dict[int, float]]) -> None:
    if not row.get("epoch"):
        return
    number = int(float(row["epoch"] or 0))
    for key, by_pass in values.items():
        text = row.get(key)
        if text and math.isfinite(value := float(text)):
            by_pass[number] = value


def _version(file: Path) -> tuple[int, str]:
    number = file.parent.name.removeprefix("version_")
    return (int(number) if number.isdecimal() else -1, number)


def in_percent(curve: Curve) -> Curve:
    """Accuracies 0..1 as percent."""
    return Curve(curve.epochs, [100 * value for value in curve.values])
