"""Every number of every run in a CSV file, one line per run and head, for other programs."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from src.commands import shown_command
from src.evaluation.scores import Accuracy
from src.reporting.rows import Row

PREDICTION = "prediction"  # of the whole net, all heads together
COLUMNS = (
    "row",
    "experiment",
    "stage",
    "options",
    "head",
    "dataset",
    "split",
    "seed",
    *(field.name for field in fields(Accuracy)),
    "protocol",
    "project_version",
    "directory",
    "command",
)


def runs_csv(rows: Sequence[Row]) -> str:
    """The text of the file; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for run in row.runs:
            for head, accuracy in {PREDICTION: run.accuracy, **run.heads}.items():
                writer.writerow(
                    {
                        "row": row.name,
                        "experiment": run.experiment,
                        "stage": run.stage,
                        "options": row.options,
                        "head": head,
                        "dataset": run.dataset,
                        "split": run.split,
                        "seed": run.seed,
                        **asdict(accuracy),
                        "protocol": run.protocol,
                        "project_version": run.version or "",
                        "directory": run.folder,
                        "command": ""
                        if run.overrides is None
                        else shown_command("train", *run.overrides),
                    }
                )
    return text.getvalue()
