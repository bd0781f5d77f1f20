"""Test a checkpoint on whole videos: net, data and protocol come out of the checkpoint itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from src.errors import UserError
from src.evaluation.protocol import protocol_name
from src.evaluation.scores import CollectScores, judge_videos
from src.evaluation.table import Result
from src.models.build import build_datamodule, build_module, build_net, check_trusted
from src.models.checkpoints import Description
from src.models.modules import VideoClassifier
from src.models.weights import load_weights, net_weights


def load_module(ckpt_path: str) -> tuple[VideoClassifier, Description]:
    """The trained module out of a checkpoint, in evaluation mode, and the checkpoint's description.

    Raises:
        UserError: the file is no checkpoint of this project, or asks for foreign code.
    """
    description, content = Description.read(ckpt_path)
    check_trusted(description.plan)
    net = build_net(description.plan)
    if load_weights(net, net_weights(content), ckpt_path).new:
        raise UserError(f"{ckpt_path} lacks the classifier that its own config describes")
    return build_module(description.plan, net).eval(), description


def evaluate_checkpoint(
    ckpt_path: str, data_changes: Mapping[str, Any], trainer: pl.Trainer, output: str
) -> Result:
    """Score every test video and write the scores.

    Args:
        ckpt_path: a checkpoint of this project.
        data_changes: keys of the checkpoint's data config to change, e.g. the place of the data.
        trainer: gets the callback that collects scores.
        output: CSV file for the scores: video, label, one column per class.

    Raises:
        UserError: the data is of another split, was made with other flow, or has other classes.
    """
    module, description = load_module(ckpt_path)
    description.plan["data"] = changed(description.plan["data"], data_changes)
    data = build_datamodule(description.plan)
    data.prepare_data()
    data.setup()
    description.check_fits(data, ckpt_path)
    if list(data.videos.classes) != description.class_names:
        raise UserError(f"{ckpt_path} was trained on other classes than {data.dataset} has")
    collected = CollectScores()
    trainer.callbacks.append(collected)  # type: ignore[attr-defined]
    trainer.test(module, datamodule=data, verbose=False)
    scores = collected.scores
    if trainer.is_global_zero:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        scores.save(Path(output), data.videos.classes)
    stage = str(description.plan["stage"])
    return Result(stage, stage, judge_videos(scores), protocol_name(description.plan["data"]))


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
