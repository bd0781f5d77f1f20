"""Test a checkpoint on full videos: net, data and protocol come out of the checkpoint itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException

from src.data.datamodule import VideoDataModule
from src.data.folder import read_test_videos
from src.data.stores import ON_THE_FLY, VIDEOS
from src.evaluation.analysis import save_confusion
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
from src.experiment.confined import check_memory, confined
from src.models.modules import VideoClassifier
from src.models.trust import check_trusted
from src.models.weights import check_same_shapes, load_weights, net_weights
from src.utils.errors import UserError, short_name
from src.utils.mistakes import find_mistake


def load_module(
    ckpt_path: str,
    data_changes: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] | None = None,
) -> tuple[VideoClassifier, CheckpointMetadata]:
    """The trained module out of a checkpoint, in evaluation mode, and the checkpoint's metadata.

    Keys of its data config (such as the places of the data) and of its protocol can be changed, but
    for those of the protocol that are None. What it asks for itself is `confined`.

    Raises:
        UserError: the file is no checkpoint of this project, or asks for foreign code.
    """
    metadata, content = CheckpointMetadata.read(ckpt_path)
    config = metadata.config
    given = {key: value for key, value in (protocol or {}).items() if value is not None}
    weights = net_weights(content)
    try:
        check_trusted(built_without_training(config), ckpt_path)
        named, described = len(metadata.class_names), config["data"]["num_classes"]
        if named != described:
            raise UserError(f"{ckpt_path} names {named} of {described} classes")
        config["data"] = changed(confined(config["data"]), data_changes or {})
        config["protocol"] |= given
        check_memory(config["data"], ckpt_path)
        with torch.device("meta"):  # which takes no memory, whatever the config asks for
            check_same_shapes(build_net(config), weights, ckpt_path)
        net = build_net(config)
        module = build_module(config, net).eval()
        build_datamodule(config)  # for whoever needs it later: nothing is read yet
    except (InstantiationException, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = find_mistake(error) or f"{type(error).__name__}: {error}"
        raise UserError(f"{ckpt_path}: its network and data cannot be built: {reason}") from error
    load_weights(net, weights, ckpt_path)
    return module, metadata


@dataclass(frozen=True)
class TestVideos:
    """Labelled videos to test a network on in place of its test list.

    Args:
        place: a folder of class folders, or a file, as `read_test_videos` takes it.
        flow: folder or archive of their flow; None computes it as that of the training was made.
    """

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    place: str
    flow: str | None = None

    def replace_in(self, metadata: CheckpointMetadata) -> None:
        """Put them in the place of the test list of a checkpoint's config.

        Raises:
            UserError: there is flow, and the network sees none.
        """
        config = metadata.config
        data = config["data"]
        if self.flow and "flow" not in data["modalities"]:
            raise UserError(f"flow={self.flow}: the network sees no flow, leave it out")
        config["data"] = data | {
            "dataset": {
                "_target_": f"{read_test_videos.__module__}.{read_test_videos.__name__}",
                "_partial_": True,
                "place": self.place,
                "classes": metadata.class_names,
            },
            "rgb": VIDEOS,
            "flow": self.flow or ON_THE_FLY,
            "flow_settings": metadata.flow
            and {"_target_": "src.flow.settings.FlowSettings", **metadata.flow},
            "test": data["test"] | {"part": "test"},
            "val_fraction": None,
            "videos": data["videos"] | {"manifest": None},
        }
        config["protocol"]["tested_on"] = f"the videos of {self.place}"


def evaluate_checkpoint(
    ckpt_path: str,
    data_changes: Mapping[str, Any],
    trainer: pl.Trainer,
    output: str,
    protocol: Mapping[str, Any] | None = None,
    videos: TestVideos | None = None,
) -> Result:
    """Score every test video of a checkpoint, opened as by `load_module`, and write the scores.

    Args:
        videos: to test on in place of those of its split.

    Raises:
        UserError: the data is of another split, was made with other flow, or has other classes.
    """
    module, metadata = load_module(ckpt_path, data_changes, protocol)
    if videos:
        videos.replace_in(metadata)
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
        save_confusion(collected.scores, confusion_beside(output))
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


def scores_beside(ckpt_path: str, videos: str | None = None) -> str:
    """Where a checkpoint's scores, on other `videos` too, go if nothing else is asked for."""
    folder = Path(ckpt_path).parent / "evaluation"
    if videos:
        folder /= short_name(Path(videos).resolve().stem, videos)
    return str(folder / "scores.csv")


def confusion_beside(scores: str) -> Path:
    """Where the confusion matrix of scores is written."""
    return Path(scores).with_suffix(".confusion.csv")


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
