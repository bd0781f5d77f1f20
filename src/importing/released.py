"""What is known of the released models beyond their files: datasets, classes, splits, stages."""

import re
from pathlib import Path
from typing import NamedTuple

from src.data.splits import HMDB51, UCF101
from src.importing.architecture import Architecture
from src.utils.errors import UserError

_SPLIT = re.compile(r"split=?([123])(?!\d)")
_EXPERIMENTS = {"additive": "st_resnet", "multiplicative": "st_multiplier"}


class Dataset(NamedTuple):
    """A dataset: its name here, and its classes in our order and in that of the released models."""

    name: str
    classes: tuple[str, ...]
    released: tuple[str, ...]

    @property
    def rows(self) -> list[int]:
        """For each class here, its number in a released model."""
        return [self.released.index(name) for name in self.classes]


def _exchanged(classes: tuple[str, ...], *pairs: tuple[str, str]) -> tuple[str, ...]:
    other = {a: b for one, two in pairs for a, b in ((one, two), (two, one))}
    return tuple(other.get(name, name) for name in classes)


# The release sorts "kick_ball_..." before "kick_test_...", as files of lists come.
_DATASETS = {
    51: Dataset(
        "hmdb51", HMDB51, _exchanged(HMDB51, ("kick", "kick_ball"), ("sword", "sword_exercise"))
    ),
    101: Dataset("ucf101", UCF101, UCF101),
}


def dataset_of(classes: int, source: str) -> Dataset:
    """The dataset with so many classes.

    Raises:
        UserError: there are released models of none such.
    """
    if classes not in _DATASETS:
        raise UserError(
            f"{source} tells {classes} classes apart: released models have 51 (HMDB51) or 101 "
            "(UCF101)"
        )
    return _DATASETS[classes]


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
    dataset: Dataset,
    split: int,
    flow_means: list[float],
    rgb_means: list[float],
) -> list[str]:
    """What to change in the `train` config so that its stage builds this network."""
    streams, stage = architecture.streams, stage_of(architecture)
    joint = len(streams) > 1
    model = _EXPERIMENTS[architecture.connection] if joint else stage
    changes: dict[str, object] = {
        "experiment": f"{model}_{dataset.name}",
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
        pool = architecture.pool
        values = pool._asdict() if pool else {}
        changes |= {f"{place}.net.temporal_pool.{key}": value for key, value in values.items()}
        if not pool:
            changes["model.net.temporal_pool"] = "null"
    return [f"{key}={value}" for key, value in changes.items()]
