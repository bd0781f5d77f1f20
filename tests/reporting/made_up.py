"""Run directories written by hand, with numbers that are known."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROTOCOL = "11 whole frames at 64 px, mean of logits"
Row = Sequence[float]


def plan(stage: str, split: int = 1, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A plan as a stage's record has it; `changes` are top-level keys, merged into mappings."""
    joint = stage.startswith("joint")
    content: dict[str, Any] = {
        "stage": stage,
        "net": {
            "_target_": "src.models.two_stream.TwoStreamResNet",
            "appearance": {"_target_": "src.models.resnet.appearance_stream", "width": 8},
            "connection": {"_target_": "src.models.connection.Connection", "kind": "additive"},
            "temporal_filters": {"kind": "converted"},
        },
        "data": {
            "_target_": "src.data.datamodule.VideoDataModule",
            "dataset": {"_target_": "src.data.two_movers.read_two_movers", "root": "/a", "seed": 0},
            "rgb": "videos",
            "flow": "/a/flow",
            "modalities": ["rgb", "flow"],
            "split": split,
            "seed": seed,
            "num_workers": seed,
            "batch_size": 20,
        },
        "module": {"schedule": {"lr": 0.05, "epochs": 6}},
        "start_from": {"appearance": "appearance", "motion": "motion"} if joint else None,
    }
    for key, value in changes.items():
        merged = isinstance(value, Mapping) and isinstance(content.get(key), Mapping)
        content[key] = content[key] | value if merged else value
    return content


def write_stage(
    folder: Path,
    top1: float,
    content: Mapping[str, Any] | None = None,
    scores: Mapping[str, Row] | None = None,
    **about: Any,
) -> Path:
    """Write the record of a finished stage; `folder` ends in <experiment>/split<k>_seed<n>/<stage>.

    Args:
        folder: of the stage.
        top1: percent; mean class accuracy is half of it, of 8 videos.
        content: the plan; None makes one.
        scores: of each video, whose label is the first class where the name starts with "a".
        about: more for the record.
    """
    folder.mkdir(parents=True)
    split, seed = (int(part.strip("splited")) for part in folder.parent.name.split("_"))
    accuracy = {"videos": 8, "top1": top1, "top5": 100.0, "mean_class": top1 / 2}
    record = {"plan": content or plan(folder.name, split, seed), "protocol": PROTOCOL}
    record |= {"accuracy": accuracy, **about}
    (folder / "stage.json").write_text(json.dumps(record))
    if scores:
        write_scores(folder / "scores.csv", scores)
    return folder


def write_scores(file: Path, scores: Mapping[str, Row]) -> None:
    """Write a file of video scores for two classes."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video", "label", "first", "second"])
        for name, row in scores.items():
            writer.writerow([name, "first" if name.startswith("a") else "second", *row])
