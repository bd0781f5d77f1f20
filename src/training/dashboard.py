"""What loggers show of a stage's test: pictures, tables and files beside the numbers.

CSV gets the numbers alone, TensorBoard pictures too, W&B also tables and artifacts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from src.evaluation.analysis import Fusion, draw_scores
from src.evaluation.samples import Sample
from src.evaluation.scores import VideoScores, video_accuracies
from src.experiment.checkpoint import CheckpointMetadata
from src.training.loggers import Guarded


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
    if hasattr(logger, "show_test"):  # W&B's, whose file is not imported for others
        logger.show_test(tested)
    elif isinstance(logger, TensorBoardLogger):
        writer = logger.experiment
        for name, figure in draw_scores(tested.scores, tested.fused).items():
            writer.add_figure(f"test/{name}", figure)
        for number, sample in enumerate(tested.samples, start=1):
            picture = cv2.imread(str(sample.picture))[..., ::-1]  # RGB
            writer.add_image(f"test/videos/{number}", picture, dataformats="HWC")
            writer.add_text(f"test/videos/{number}", sample.caption)


def _numbers(tested: Tested) -> dict[str, float]:
    fused = tested.fused
    if fused is None:
        return {}
    numbers, key = {}, fusion_key(fused)
    for part, changed in fused.changes().items():
        numbers[f"test/{key}/corrected_of_{part}"] = float(len(changed.corrected))
        numbers[f"test/{key}/broken_of_{part}"] = float(len(changed.broken))
    if fused.scores is not tested.scores:
        accuracy = video_accuracies(fused.scores)
        for name in ("top1", "top5", "mean_class"):  # 0..1, as all that is logged
            numbers[f"test/{key}/{name}"] = getattr(accuracy, name) / 100
    return numbers


def fusion_key(fused: Fusion) -> str:
    """Its name in keys of loggers."""
    return fused.name.replace(" ", "_")
