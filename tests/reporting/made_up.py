"""Run directories written by hand, with numbers that are known."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROTOCOL = "11 full frames at 64 px, mean of logits"
Row = Sequence[float]


def config_of(stage: str, split: int = 1, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A stage's config as its record has it; `changes` are keys, merged into mappings.

    Keys of `changes` are those of the top level, and `net` is the network that the stage trains.
    """
    joint = stage.startswith("joint")
    network = "net" if joint else stage
    net = {
        "_target_": "src.models.two_stream.TwoStreamResNet",
        "appearance": {"_target_": "src.models.resnet.appearance_stream", "width": 8},
        "connection": {"_target_": "src.models.connection.Connection", "kind": "additive"},
        "temporal_filters": {"kind": "inflated"},
    }
    return {
        "stage": stage,
        "name": "e",
        "seed": seed,
        "network": network,
        "init_from": {"appearance": "appearance", "motion": "motion"} if joint else None,
        "model": {network: net | changes.pop("net", {})},
        "data": {
            "_target_": "src.data.datamodule.VideoDataModule",
            "dataset": {"_target_": "src.data.two_movers.read_two_movers", "root": "/a", "seed": 0},
            "rgb": "videos",
            "flow": "/a/flow",
            "flow_settings": None,
            "modalities": ["rgb", "flow"],
            "split": split,
            "seed": seed,
            "val_fraction": None,
            "test": {"part": "test"},
            "loader": {"num_workers": seed},
            "batch_size": 20,
        }
        | changes.pop("data", {}),
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05} | changes.pop("optimizer", {}),
        "max_epochs": 6,
        "effective_batch_size": 20,
        **changes,
    }


def write_stage(
    folder: Path,
    top1: float,
    config: Mapping[str, Any] | None = None,
    scores: Mapping[str, Row] | None = None,
    experiment: str | None = None,
    **about: Any,
) -> Path:
    """Write the record of a finished stage; `folder` ends in <experiment>/split<k>_seed<n>/<stage>.

    Args:
        folder: of the stage.
        top1: percent; mean class accuracy is half of it, of 8 videos.
        config: of the stage; None makes one.
        scores: of each video, whose label is the first class where the name starts with "a".
        experiment: its name; None takes the folder's.
        about: more for the record.
    """
    folder.mkdir(parents=True)
    split, seed = (int(part.strip("splited")) for part in folder.parent.name.split("_"))
    content = dict(config or config_of(folder.name, split, seed))
    content["name"] = experiment or folder.parent.parent.name
    record: dict[str, Any] = {
        "config": content,
        "protocol": PROTOCOL,
        "accuracy": {"videos": 8, "top1": top1, "top5": 100.0, "mean_class": top1 / 2},
        "streams": {},
        "faults": [],
        "flow": None,
        "stage_dirs": {},
        "overrides": None,
        "version": "0.1.0",
    }
    (folder / "stage.json").write_text(json.dumps(record | about))
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
