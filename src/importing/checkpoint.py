"""A released MatConvNet model as a checkpoint of this project."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from src.experiment.build import build_module, build_net
from src.experiment.checkpoint import KEY, CheckpointMetadata
from src.experiment.config import stage_config
from src.flow.settings import FlowSettings
from src.importing.architecture import Architecture
from src.importing.mat_file import read_dag
from src.importing.recognize import recognize
from src.importing.released import dataset_of, overrides, split_of, stage_of
from src.importing.weights import Weight, fill, means, weights
from src.utils.errors import UserError
from src.utils.files import atomic_write


@dataclass(frozen=True)
class Imported:
    """A released model, ready to be saved.

    Args:
        architecture: what was recognized.
        weights: the tensors of the net, and what each was made of.
        description: what the checkpoint carries beside weights.
        state_dict: of the LightningModule.
        source: the name of the file.
    """

    architecture: Architecture
    weights: Mapping[str, Weight]
    description: CheckpointMetadata
    state_dict: Mapping[str, Any]
    source: str

    def save(self, path: Path) -> None:
        """Write the checkpoint, completely or not at all.

        Raises:
            UserError: the path is a folder's.
        """
        if path.is_dir():
            raise UserError(f"output {path} is a folder: give the name of a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "state_dict": dict(self.state_dict),
            KEY: asdict(self.description),
            "imported_from": self.source,
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": version("pytorch-lightning"),
        }
        with atomic_write(path) as draft:
            torch.save(content, draft)

    def save_listing(self, path: Path) -> None:
        """Write a CSV file with the columns tensor, shape, source: what became of what."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["tensor", "shape", "source"])
            for name, weight in self.weights.items():
                shape = "x".join(map(str, weight.tensor.shape))
                writer.writerow([name, shape, weight.source])


def import_model(
    path: str | Path, split: int | None, compose: Callable[[list[str]], DictConfig]
) -> Imported:
    """Read, recognize and translate a released model.

    Args:
        path: the MATLAB file.
        split: that it was trained on; None takes it from the file's name.
        compose: the project's `train` config with some overrides.

    Raises:
        UserError: the file is not readable, or is none of the released models.
    """
    dag = read_dag(path)
    architecture = recognize(dag)
    dataset = dataset_of(architecture.classes, dag.source)
    split = split_of(path, split)
    channels = {name: stream.channels for name, stream in architecture.streams.items()}
    flow_means, rgb_means = means(dag, channels.get("motion", 0), channels.get("appearance", 0))
    cfg = compose(overrides(architecture, dataset, split, flow_means, rgb_means))
    config = stage_config(cfg, stage_of(architecture))
    net = build_net(config)
    found = weights(dag, architecture, dataset.rows)
    fill(net, found, dag)
    module = build_module(config, net)
    description = CheckpointMetadata(
        config=config,
        class_names=list(dataset.classes),
        split=split,
        normalization=module.normalize.describe(),
        flow=asdict(FlowSettings()) if "motion" in channels else None,  # the published TV-L1
    )
    return Imported(architecture, found, description, module.state_dict(), dag.source)


def report(imported: Imported) -> Iterator[str]:
    """What was recognized and used, and what had to be put in, line by line."""
    found, description = imported.architecture, imported.description
    yield (
        f"{description.config['name']}, split {description.split}, stage "
        f"{description.config['stage']}: {found.classes} classes"
    )
    for name, stream in found.streams.items():
        yield f"{name}: ResNet-{stream.depth} over {stream.channels} channels"
    if found.connection != "none":
        stages = ", ".join(f"conv{stage + 1}_x" for stage in found.connected)
        pool = (
            f"{found.pool.kind} {found.pool.size} / {found.pool.stride}" if found.pool else "none"
        )
        yield f"connections: {found.connection}, motion to appearance, at {stages}"
        yield f"temporal filters: {found.filters}, in {' and '.join(found.filtered) or 'no stream'}"
        yield f"temporal pool: {pool}"
    for modality, reader in (("rgb", "appearance"), ("flow", "motion")):
        if reader in found.streams:
            yield f"subtracted from {modality}: {_plain(description.normalization, modality)}"
    used = len({weight.source for weight in imported.weights.values() if weight.in_file})
    yield f"used: all {used} parameters, and all layers but losses"
    for name, weight in imported.weights.items():
        if not weight.in_file:
            yield f"not in the file: {name}, {weight.source}"


def _plain(normalization: dict[str, float | Sequence[float]], modality: str) -> str:
    mean = normalization[f"{modality}_mean"]
    numbers = [mean] if isinstance(mean, (int, float)) else mean
    return " ".join(f"{number:.6g}" for number in numbers)
