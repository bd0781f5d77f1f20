"""A released MatConvNet model as a checkpoint of this project."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from src.data.splits import HMDB51, UCF101
from src.experiment.build import build_module, build_net
from src.experiment.checkpoint import KEY, CheckpointMetadata
from src.experiment.compose import compose_config
from src.experiment.config import stage_config
from src.flow.settings import FlowSettings
from src.importing.mat_file import read_dag
from src.importing.recognize import Architecture, recognize
from src.importing.weights import Weight, fill, means, weights
from src.utils.errors import UserError
from src.utils.files import atomic_write, write_csv

_SPLIT = re.compile(r"split=?([123])(?!\d)")
_EXPERIMENTS = {"additive": "st_resnet", "multiplicative": "st_multiplier"}
_DATASETS = {51: ("hmdb51", HMDB51), 101: ("ucf101", UCF101)}
# The release sorts "kick_ball_..." before "kick_test_...", as files of lists come.
_EXCHANGED = {"kick": "kick_ball", "kick_ball": "kick"}
_EXCHANGED |= {"sword": "sword_exercise", "sword_exercise": "sword"}


@dataclass(frozen=True)
class Imported:
    """A released model, ready to be saved."""

    architecture: Architecture
    weights: Mapping[str, Weight]  # the tensors of the net, and what each was made of
    metadata: CheckpointMetadata
    state_dict: Mapping[str, Any]  # of the LightningModule
    source: str  # the name of the file

    def save(self, path: Path) -> None:
        """Write the checkpoint, completely or not at all.

        Raises:
            UserError: the path is a folder's.
        """
        if path.is_dir():
            raise UserError(f"output {path} is a folder: give the name of a file in it")
        content = {
            "state_dict": dict(self.state_dict),
            KEY: asdict(self.metadata),
            "imported_from": self.source,
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": version("pytorch-lightning"),
        }
        with atomic_write(path) as draft:
            torch.save(content, draft)

    def save_listing(self, path: Path) -> None:
        """Write a CSV file with the columns tensor, shape, source: what became of what."""
        rows = (
            (name, "x".join(map(str, weight.tensor.shape)), weight.source)
            for name, weight in self.weights.items()
        )
        write_csv(path, [("tensor", "shape", "source"), *rows])


def import_model(path: str | Path, split: int | None) -> Imported:
    """Read, recognize and translate a released model; its split is given or in the file's name.

    Raises:
        UserError: the file is not readable, or is none of the released models.
    """
    dag = read_dag(path)
    architecture = recognize(dag)
    if architecture.classes not in _DATASETS:
        raise UserError(
            f"{dag.source} tells {architecture.classes} classes apart: released models have 51 "
            "(HMDB51) or 101 (UCF101)"
        )
    dataset, classes = _DATASETS[architecture.classes]
    split = split_of(path, split)
    channels = {name: stream.channels for name, stream in architecture.streams.items()}
    flow_means, rgb_means = means(dag, channels.get("motion", 0), channels.get("appearance", 0))
    changes = overrides(architecture, dataset, split, flow_means, rgb_means)
    config = stage_config(compose_config("train", *changes), stage_of(architecture))
    net = build_net(config)
    rows = [classes.index(_EXCHANGED.get(name, name)) for name in classes]
    tensors = weights(dag, architecture, rows)
    fill(net, tensors, dag)
    module = build_module(config, net)
    metadata = CheckpointMetadata(
        config=config,
        class_names=list(classes),
        split=split,
        normalization=module.normalize.describe(),
        flow=asdict(FlowSettings()) if "motion" in channels else None,  # the published TV-L1
    )
    return Imported(architecture, tensors, metadata, module.state_dict(), dag.source)


def split_of(path: str | Path, given: int | None) -> int:
    """The split that a file is of: the given one, or what its name says.

    Raises:
        UserError: neither says one, or they differ.
    """
    named = {int(number) for number in _SPLIT.findall(Path(path).name)}
    if given is not None and given not in (1, 2, 3):
        raise UserError(f"split={given}: choose from 1, 2, 3")
    if given is None and len(named) != 1:
        raise UserError(
            f"{Path(path).name} does not say which split it was trained on: add split=1|2|3"
        )
    if given is not None and named - {given}:
        raise UserError(
            f"split={given}, but the name of {Path(path).name} says another: rename the file if "
            "it is wrong"
        )
    return named.pop() if given is None else given


def stage_of(architecture: Architecture) -> str:
    """The stage of training here that ends with such a network."""
    if len(architecture.streams) == 1:
        return next(iter(architecture.streams))
    additive = architecture.connection == "additive"
    return "joint_pooled" if additive and architecture.pool else "joint"


def overrides(
    architecture: Architecture,
    dataset: str,
    split: int,
    flow_means: list[float],
    rgb_means: list[float],
) -> list[str]:
    """What to change in the `train` config so that its stage builds this network."""
    streams, stage = architecture.streams, stage_of(architecture)
    joint = len(streams) > 1
    model = _EXPERIMENTS[architecture.connection] if joint else stage
    changes: dict[str, object] = {
        "experiment": f"{model}_{dataset}",
        "model/backbone": "resnet50_caffe",
        "data.split": split,
    }
    for name, stream in streams.items():
        changes |= {f"model.{name}.depth": stream.depth, f"model.{name}.width": stream.width}
    if rgb_means:
        changes["model.backbone.normalize.rgb_mean"] = rgb_means
    if flow_means:
        alike = len(set(flow_means)) == 1
        changes["model.backbone.normalize.flow_mean"] = flow_means[0] if alike else flow_means
        changes["data.flow_stack"] = len(flow_means) // 2
    if joint:
        changes |= {
            "model.net.connection.kind": architecture.connection,
            "model.net.connection.stages": list(architecture.connected),
            "model.net.temporal_filters.kind": architecture.filters,
            "model.net.temporal_filters.streams": list(architecture.filtered),
        }
        place = "stages.joint_pooled.model" if stage == "joint_pooled" else "model"
        if pool := architecture.pool:
            values = asdict(pool).items()
            changes |= {f"{place}.net.temporal_pool.{key}": value for key, value in values}
        else:
            changes["model.net.temporal_pool"] = "null"
    return [f"{key}={value}" for key, value in changes.items()]


def report(imported: Imported) -> Iterator[str]:
    """What was recognized and used, and what had to be put in, line by line."""
    architecture, metadata = imported.architecture, imported.metadata
    yield (
        f"{metadata.config['name']}, split {metadata.split}, stage "
        f"{metadata.config['stage']}: {architecture.classes} classes"
    )
    for name, stream in architecture.streams.items():
        yield f"{name}: ResNet-{stream.depth} over {stream.channels} channels"
    if architecture.connection != "none":
        stages = ", ".join(f"conv{stage + 1}_x" for stage in architecture.connected)
        yield f"connections: {architecture.connection}, motion to appearance, at {stages}"
        filtered = " and ".join(architecture.filtered) or "no stream"
        yield f"temporal filters: {architecture.filters}, in {filtered}"
        pool = architecture.pool
        yield f"temporal pool: {f'{pool.kind} {pool.size} / {pool.stride}' if pool else 'none'}"
    for modality, reader in (("rgb", "appearance"), ("flow", "motion")):
        if reader in architecture.streams:
            mean = metadata.normalization[f"{modality}_mean"]
            numbers = [mean] if isinstance(mean, (int, float)) else mean
            shown = " ".join(f"{number:.6g}" for number in numbers)
            yield f"subtracted from {modality}: {shown}"
    used = len({weight.source for weight in imported.weights.values() if weight.in_file})
    yield f"used: all {used} parameters, and all layers but losses"
    for name, weight in imported.weights.items():
        if not weight.in_file:
            yield f"not in the file: {name}, {weight.source}"
