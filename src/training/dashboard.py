"""What loggers show of a stage's test: pictures, tables and files beside the numbers.

CSV gets the numbers alone, TensorBoard pictures too, W&B also tables and artifacts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import wandb
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from src.evaluation.analysis import (
    Fusion,
    class_accuracies,
    draw_scores,
    hardest_confusions,
    labels_by_video,
    predictions,
)
from src.evaluation.samples import Sample
from src.evaluation.scores import VideoScores, video_accuracies
from src.experiment.checkpoint import CheckpointMetadata
from src.training.loggers import LONGEST, Guarded, StageRun, artifact_name


@dataclass(frozen=True)
class Tested:
    """A stage that has been tested on full videos."""

    scores: VideoScores  # of the net
    fused: Fusion | None  # of its classifiers, or of this stream and the one trained before
    samples: Sequence[Sample]
    metadata: CheckpointMetadata
    checkpoint: Path
    score_files: Sequence[Path]


def show_test(loggers: Sequence[Guarded], tested: Tested) -> None:
    """Tell every logger what it can show of a tested stage."""
    for logger in loggers:
        logger.attempt(_show, logger, tested)


def _show(logger: Logger, tested: Tested) -> None:
    logger.log_metrics(_numbers(tested))
    if isinstance(logger, StageRun):
        _show_on_wandb(logger, tested)
    elif isinstance(logger, TensorBoardLogger):
        _show_on_tensorboard(logger.experiment, tested)


def _numbers(tested: Tested) -> dict[str, float]:
    fused = tested.fused
    if fused is None:
        return {}
    numbers, key = {}, _key(fused)
    for part, changed in fused.changes().items():
        numbers[f"test/{key}/corrected_of_{part}"] = float(len(changed.corrected))
        numbers[f"test/{key}/broken_of_{part}"] = float(len(changed.broken))
    if fused.scores is not tested.scores:
        accuracy = video_accuracies(fused.scores)
        for name in ("top1", "top5", "mean_class"):  # 0..1, as all that is logged
            numbers[f"test/{key}/{name}"] = getattr(accuracy, name) / 100
    return numbers


def _key(fused: Fusion) -> str:
    """Its name in keys of loggers."""
    return fused.name.replace(" ", "_")


def _show_on_tensorboard(writer: SummaryWriter, tested: Tested) -> None:
    for name, figure in draw_scores(tested.scores, tested.fused).items():
        writer.add_figure(f"test/{name}", figure)
    for number, sample in enumerate(tested.samples, start=1):
        picture = cv2.imread(str(sample.picture))[..., ::-1]  # RGB
        writer.add_image(f"test/videos/{number}", picture, dataformats="HWC")
        writer.add_text(f"test/videos/{number}", sample.caption)


def _show_on_wandb(logger: StageRun, tested: Tested) -> None:
    shown: dict[str, Any] = {"test/videos": _samples_table(tested.samples)}
    for name, figure in draw_scores(tested.scores, tested.fused).items():
        shown[f"test/{name}"] = wandb.Image(figure)
    shown["test/hardest_confusions"] = wandb.Table(
        ["label", "prediction", "videos", "of"],
        [[c.label, c.prediction, c.videos, c.of] for c in hardest_confusions(tested.scores)],
    )
    bars = wandb.Table(
        ["class", "accuracy", "videos"],
        [[c.name, c.percent, c.videos] for c in class_accuracies(tested.scores)],
    )
    shown["test/class_accuracy_bars"] = wandb.plot.bar(
        bars, "class", "accuracy", title="Videos of each class that are right, %"
    )
    if tested.fused:
        shown[f"test/{_key(tested.fused)}/changes"] = _changes_table(tested.fused)
    logger.experiment.log(shown)
    _keep_files(logger, tested)


def _samples_table(samples: Sequence[Sample]) -> wandb.Table:
    classifiers = list(samples[0].predictions) if samples else []
    columns = ["video", "clip", "frames and flow", "label", "right"]
    for name in classifiers:
        columns += [name, f"{name}: probability", f"{name}: of the label"]
    table = wandb.Table(columns)
    for sample in samples:
        predictions = [sample.predictions[name] for name in classifiers]
        table.add_data(
            sample.video,
            wandb.Video(str(sample.film), format="mp4"),
            wandb.Image(str(sample.picture)),
            sample.label,
            sample.right,
            *(value for s in predictions for value in (s.prediction, s.probability, s.of_label)),
        )
    return table


def _changes_table(fused: Fusion) -> wandb.Table:
    after = _predicted(fused.scores)
    label = labels_by_video(fused.scores)
    table = wandb.Table(["video", "label", "change", "against", "prediction before", fused.name])
    for part, changed in fused.changes().items():
        before = _predicted(fused.parts[part])
        for change, videos in (("corrected", changed.corrected), ("broken", changed.broken)):
            for video in videos:
                table.add_data(video, label[video], change, part, before[video], after[video])
    return table


def _predicted(scores: VideoScores) -> dict[str, str]:
    names = ("" if best < 0 else scores.classes[best] for best in predictions(scores).tolist())
    return dict(zip(scores.videos, names, strict=True))


def _keep_files(logger: StageRun, tested: Tested) -> None:
    metadata, config = tested.metadata, tested.metadata.config
    name = f"{config['name']}-{config['stage']}-split{metadata.split}-seed{config['seed']}"
    name = artifact_name(name, LONGEST - len("-scores"))
    about = {
        "version": metadata.version,
        "split": metadata.split,
        "protocol": tested.scores.protocol,
        "top1": video_accuracies(tested.scores).top1,
    }
    scores = wandb.Artifact(f"{name}-scores", type="scores", metadata=about)
    for file in tested.score_files:
        scores.add_file(str(file))
    logger.experiment.log_artifact(scores)
    if logger.keeps_checkpoints:
        model = wandb.Artifact(name, type="model", metadata=about)
        # immutable: not copied before it is uploaded; a finished stage's does not change
        model.add_file(str(tested.checkpoint), policy="immutable")
        with model.new_file("config.yaml", mode="w") as file:
            file.write(OmegaConf.to_yaml(config))
        logger.experiment.log_artifact(model)
