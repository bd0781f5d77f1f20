"""Test a checkpoint on full videos: net, data and protocol come out of the checkpoint itself."""

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from src.data.datamodule import VideoDataModule
from src.evaluation.scores import CollectScores, VideoScores, video_accuracies
from src.evaluation.table import Result
from src.experiment.build import (
    build_datamodule,
    build_module,
    build_net,
    build_protocol,
    built_without_training,
)
from src.experiment.checkpoint import CheckpointMetadata
from src.models.modules import VideoClassifier
from src.models.trust import check_trusted
from src.models.weights import load_weights, net_weights
from src.utils.errors import UserError


def load_module(
    ckpt_path: str,
    data_changes: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] | None = None,
) -> tuple[VideoClassifier, CheckpointMetadata]:
    """The trained module out of a checkpoint, in evaluation mode, and the checkpoint's metadata.

    Keys of its data config (such as the places of the data) and of its protocol can be changed, but
    for those of the protocol that are None.

    Raises:
        UserError: the file is no checkpoint of this project, or asks for foreign code.
    """
    metadata, content = CheckpointMetadata.read(ckpt_path)
    config = metadata.config
    given = {key: value for key, value in (protocol or {}).items() if value is not None}
    try:
        check_trusted(built_without_training(config), ckpt_path)
        config["data"] = changed(config["data"], data_changes or {})
        config["protocol"] |= given
        net = build_net(config)
        module = build_module(config, net).eval()
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{ckpt_path} describes no network that can be built ({type(error).__name__}: {error})"
        ) from error
    if load_weights(net, net_weights(content), ckpt_path).new:
        raise UserError(f"{ckpt_path} lacks the classifier that its own config describes")
    if len(metadata.class_names) != module.num_classes:
        raise UserError(
            f"{ckpt_path} names {len(metadata.class_names)} of {module.num_classes} classes"
        )
    return module, metadata


def evaluate_checkpoint(
    ckpt_path: str,
    data_changes: Mapping[str, Any],
    trainer: pl.Trainer,
    output: str,
    protocol: Mapping[str, Any] | None = None,
) -> Result:
    """Score every test video of a checkpoint, opened as by `load_module`, and write the scores.

    Raises:
        UserError: the data is of another split, was made with other flow, or has other classes.
    """
    module, metadata = load_module(ckpt_path, data_changes, protocol)
    scores = score_videos(module, metadata, trainer, output, ckpt_path)
    stage = str(metadata.config["stage"])
    return Result(stage, stage, video_accuracies(scores), scores.protocol, scores.faults)


def score_videos(
    module: VideoClassifier,
    metadata: CheckpointMetadata,
    trainer: pl.Trainer,
    output: str,
    ckpt_path: str,
) -> VideoScores:
    """Score every test video with what `load_module` has returned, and write the scores."""
    data = data_of(metadata, ckpt_path)
    collected = CollectScores(data, build_protocol(metadata.config).name)
    trainer.callbacks += [collected]  # type: ignore[attr-defined]
    trainer.test(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        collected.scores.save(Path(output))
    return collected.scores


def data_of(metadata: CheckpointMetadata, ckpt_path: str) -> VideoDataModule:
    """The data that a checkpoint was trained and is tested on, set up.

    Raises:
        UserError: they are of another split, were made with other flow, or have other classes.
    """
    data = build_datamodule(metadata.config)
    data.prepare_data()
    data.setup()
    metadata.check_fits(data, ckpt_path)
    for label, names in enumerate(zip_longest(metadata.class_names, data.videos.classes)):
        if names[0] != names[1]:
            raise UserError(
                f"{ckpt_path} was trained on other classes than the data has: class {label} is "
                f"{names[0]} there, and {names[1]} here"
            )
    return data


def scores_beside(ckpt_path: str) -> str:
    """Where a checkpoint's scores are written if nothing else is asked for."""
    return str(Path(ckpt_path).parent / "evaluation" / "scores.csv")


def changed(
    config: Mapping[str, Any], changes: Mapping[str, Any], path: str = ""
) -> dict[str, Any]:
    """A nested dictionary with some of its values replaced; new keys are refused."""
    result = dict(config)
    for key, value in changes.items():
        if key not in config:
            raise UserError(
                f"data.{path}{key} is not in the checkpoint's config: it has {', '.join(config)}"
            )
        nested = isinstance(value, Mapping) and isinstance(config[key], Mapping)
        result[key] = changed(config[key], value, f"{path}{key}.") if nested else value
    return result
