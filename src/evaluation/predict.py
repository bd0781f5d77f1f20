"""Classify videos with a checkpoint; flow is computed from their frames."""

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.data.dataset import read_view
from src.data.video_file import VideoFile
from src.errors import UserError
from src.evaluation.evaluate import load_module
from src.flow.computed import ComputedFlow
from src.flow.settings import FlowSettings
from src.models.build import build_datamodule
from src.models.modules import mean_of_streams

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """One of a video's most probable classes; `probability` is that of its video scores."""

    video: str
    rank: int
    label: str
    probability: float


def predict_videos(
    ckpt_path: str,
    videos: Sequence[Path],
    top_k: int,
    flow: FlowSettings | None = None,
    device: str | torch.device = "cpu",
) -> tuple[list[Prediction], dict[str, str]]:
    """The `top_k` most probable classes of each video, seen as in testing.

    Args:
        ckpt_path: a checkpoint of this project.
        videos: video files.
        top_k: classes per video.
        flow: how to compute the flow; None as the checkpoint's training flow was made.
        device: to run the network on.

    Returns:
        Predictions, video by video, and the reasons for the videos that could not be read.

    Raises:
        UserError: the checkpoint cannot be used.
    """
    module, description = load_module(ckpt_path)
    module.to(device)
    data = build_datamodule(description.plan)
    trained_on = FlowSettings(**description.flow) if description.flow else None
    if trained_on and flow:
        flow = replace(flow, short_side=trained_on.short_side, bound=trained_on.bound)
        if flow != trained_on:
            log.warning(
                "flow by %s, but the network was trained on flow by %s: expect lower accuracy",
                flow.algorithm,
                trained_on.algorithm,
            )
    settings = flow or trained_on
    algorithm = settings.make() if settings else None

    predictions: list[Prediction] = []
    failed: dict[str, str] = {}
    for path in videos:
        try:
            frames = VideoFile(path)
            fields = (
                ComputedFlow(frames, algorithm, settings.short_side, settings.bound)
                if "flow" in data.modalities and algorithm and settings
                else None
            )
            sample = read_view(
                frames if "rgb" in data.modalities else None,
                fields,
                data.test_view,
                data.stack,
                np.random.default_rng(0),
                str(path),
            )
        except UserError as error:
            failed[str(path)] = str(error)
            continue
        batch = {name: tensor.unsqueeze(0).to(device) for name, tensor in sample.items()}
        with torch.inference_mode():
            streams = module.video_scores(batch)
        scores = mean_of_streams(streams)[0]  # (K,)
        best = module.protocol.probabilities(scores).topk(min(top_k, len(scores)))
        predictions += [
            Prediction(str(path), rank, description.class_names[index], probability)
            for rank, (probability, index) in enumerate(
                zip(best.values.tolist(), best.indices.tolist(), strict=True), start=1
            )
        ]
    return predictions, failed


def show_predictions(predictions: Sequence[Prediction]) -> None:
    """Print a table with a row per video and class."""
    table = Table()
    for column in ("video", "rank", "class", "probability"):
        table.add_column(column)
    for p in predictions:
        video = escape(p.video) if p.rank == 1 else ""
        table.add_row(video, str(p.rank), escape(p.label), f"{p.probability:.3f}")
    Console().print(table)


def save_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write them as JSON if the file's name ends in .json, else as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(prediction) for prediction in predictions]
    with path.open("w", newline="") as file:
        if path.suffix == ".json":
            json.dump(rows, file, indent=2)
        else:
            writer = csv.DictWriter(file, list(Prediction.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(rows)
