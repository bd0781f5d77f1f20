"""Where a stage's weights come from: an earlier stage, a checkpoint, ImageNet, or chance."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from src.data.datamodule import VideoDataModule
from src.experiment.checkpoint import KEY, CheckpointMetadata
from src.experiment.config import StageConfig
from src.experiment.run_dir import StageDir
from src.models.modules import VideoClassifier
from src.models.normalize import Normalize
from src.models.weights import (
    imagenet_normalization,
    imagenet_weights,
    load_weights,
    net_weights,
    of_part,
    read_checkpoint,
)
from src.utils.errors import UserError

log = logging.getLogger(__name__)


def weight_sources(config: StageConfig) -> dict[str, str | None]:
    """Where the weights of each part of the net come from; the full net is the part ""."""
    source = config["init_from"]
    return dict(source) if isinstance(source, Mapping) else {"": source}


def checkpoint_of_stage(stage_dir: StageDir, needed_by: str) -> Path:
    """The final checkpoint of an earlier stage of this run."""
    if stage_dir.finished() is None:
        raise UserError(
            f"stage {needed_by} starts from stage {stage_dir.path.name}, which is not finished in "
            f"{stage_dir.path.parent}: run it first, or give a checkpoint as "
            f"stages.{needed_by}.init_from"
        )
    return stage_dir.final


def init_weights(
    config: StageConfig,
    stages: Mapping[str, StageDir],
    net: nn.Module,
    normalize: Normalize,
    data: VideoDataModule,
) -> None:
    """Load the weights that a stage starts from, part by part, and log what became of them.

    Raises:
        UserError: weights were trained with another normalization, on another split or other flow.
    """
    for part, source in weight_sources(config).items():
        if source is None:
            continue
        target = net.get_submodule(part)
        if is_imagenet(source, stages):
            weights = imagenet_weights(target, source)
            check_normalization(normalize, imagenet_normalization(target, source), source, data)
        else:
            if source in stages:
                source = str(checkpoint_of_stage(stages[source], config["stage"]))
            content = read_checkpoint(source)
            if KEY in content:
                metadata = CheckpointMetadata.out_of(content, source)
                metadata.check_fits(data, source)
                check_normalization(normalize, metadata.normalization, source, data)
            weights = of_part(net_weights(content), part)
        report = load_weights(target, weights, source)
        log.info("%s starts from %s: %s", part or config["stage"], source, report)


def check_continues(
    module: VideoClassifier, config: StageConfig, earlier: StageConfig, checkpoint: Path
) -> None:
    """Refuse to resume the training of another network or with another optimizer.

    The module may have the weights of the checkpoint, whose config is `earlier`, afterwards.

    Raises:
        UserError: not even resume=force can do that.
    """
    content = read_checkpoint(checkpoint)
    optimizer_class, saved_class = (c["optimizer"]["_target_"] for c in (config, earlier))
    try:
        if optimizer_class != saved_class:
            raise ValueError(f"it has the state of {saved_class}, not of {optimizer_class}")
        module.load_state_dict(content["state_dict"])
        optimizer = module.configure_optimizers()["optimizer"]
        optimizer.load_state_dict(content["optimizer_states"][0])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"not even resume=force resumes from {checkpoint}: {error}; give a new paths.run_dir, "
            f"with stages.{config['stage']}.init_from={checkpoint} if its weights fit"
        ) from error


def check_normalization(
    normalize: Normalize, trained_with: Mapping[str, Any], source: str, data: VideoDataModule
) -> None:
    """Refuse weights that were trained on input normalized in another way.

    Only what is known of the source and of the data's modalities is compared.
    """
    configured = normalize.describe()
    for key, value in trained_with.items():
        number = configured.get(key)
        try:
            alike = np.allclose(number, value, atol=0.01)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # of other channels, or no numbers at all
            alike = False
        if key.split("_")[0] in data.modalities and not alike:
            raise UserError(
                f"{source} was trained with {key} {value}, but model.backbone.normalize has "
                f"{number}: set it so, or choose the model/backbone of those weights"
            )


def is_imagenet(source: str, stages: Collection[str]) -> bool:
    """Whether a source is a name of torchvision's weights, neither a stage nor a file."""
    return source not in stages and not Path(source).suffix
