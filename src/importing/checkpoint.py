"""A released MatConvNet model as a checkpoint of this project."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from src.errors import UserError
from src.experiment.build import build_module, build_net
from src.experiment.checkpoints import KEY, Description
from src.experiment.config import stage_config
from src.flow.settings import FlowSettings
from src.importing.architecture import Architecture
from src.importing.average_image import means
from src.importing.mat_file import read_dag
from src.importing.recognise import recognise
from src.importing.released import dataset_of, overrides, split_of, stage_of
from src.importing.weights import Weight, fill, weights
from src.whole_files import whole


@dataclass(frozen=True)
class Imported:
    """A released model, ready to be saved.

    Args:
        architecture: what was recognised.
        weights: the tensors of the net, and what each was made of.
        description: what the checkpoint carries beside weights.
        state_dict: of the LightningModule.
        source: the name of the file.
    """

    architecture: Architecture
    weights: Mapping[str, Weight]
    description: Description
    state_dict: Mapping[str, Any]
    source: str

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all.

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
        with whole(path) as draft:
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
    """Read, recognise and translate a released model.

    Args:
        path: the MATLAB file.
        split: that it was trained on; None takes it from the file's name.
        compose: the project's `train` config with some overrides.

    Raises:
        UserError: the file is not readable, or is none of the released models.
    """
    dag = read_dag(path)
    architecture = recognise(dag)
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
    description = Description(
        config=config,
        class_names=list(dataset.classes),
        split=split,
        normalisation=module.normalise.describe(),
        flow=asdict(FlowSettings()) if "motion" in channels else None,  # the published TV-L1
    )
    return Imported(architecture, found, description, module.state_dict(), dag.source)
