"""Build a stage's network, module and data from its config, in training and out of a checkpoint."""

import math
from typing import Any

from hydra.utils import instantiate

from src.data.datamodule import VideoDataModule
from src.experiment.config import StageConfig
from src.models.modules import VideoClassifier
from src.models.optimization import LrMultipliers, Optimization


def built_without_training(config: StageConfig) -> dict[str, Any]:
    """Those parts of a stage's config that are built to use a trained network."""
    model = config["model"]
    return {
        "net": model[config["network"]],
        "normalize": model["normalize"],
        "module": config["module"],
        "data": config["data"],
        "protocol": config["protocol"],
    }


def build_datamodule(config: StageConfig) -> VideoDataModule:
    """The stage's data; nothing is read yet."""
    return instantiate(config["data"], _convert_="all")


def build_net(config: StageConfig) -> Any:
    """The stage's network, newly initialized."""
    return instantiate(config["model"][config["network"]], _convert_="all")


def build_module(config: StageConfig, net: Any, total_steps: int | None = None) -> VideoClassifier:
    """The stage's LightningModule around the network that `build_net` has returned.

    `total_steps` are the updates of the full training; None for a module that is not trained.

    Raises:
        ValueError: a value of the config cannot be.
    """
    # called by itself, because Hydra would take apart those arguments that are dataclasses
    module = instantiate(config["module"], _partial_=True, _convert_="all")
    return module(
        net=net,
        normalize=instantiate(config["model"]["normalize"], _convert_="all"),
        num_classes=config["data"]["num_classes"],
        protocol=build_protocol(config),
        optimization=None if total_steps is None else build_optimization(config, total_steps),
    )


def build_optimization(config: StageConfig, total_steps: int) -> Optimization:
    """What a stage is trained with: optimizer, learning rates, regularization.

    A scheduler that takes `total_steps`, as torch's OneCycleLR does, is given those of the stage
    and stepped after every update; all others are stepped after every epoch.
    """
    optimizer, scheduler = dict(config["optimizer"]), config["lr_scheduler"]
    lr, multipliers = optimizer.pop("lr"), optimizer.pop("lr_multipliers", {})
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 <= lr < math.inf:
        raise ValueError(f"optimizer.lr={lr}: needs a number from 0")
    by_step = scheduler is not None and "total_steps" in scheduler
    if by_step:
        scheduler = scheduler | {"total_steps": total_steps}
    return Optimization(
        optimizer=instantiate(optimizer, _convert_="all"),
        lr=lr,
        lr_multipliers=LrMultipliers(**multipliers),
        lr_scheduler=instantiate(scheduler, _convert_="all"),
        lr_interval="step" if by_step else "epoch",
        batch_norm=config["batch_norm"],
        label_smoothing=config["label_smoothing"],
        mixing=instantiate(config["mixing"], _convert_="all"),
        class_weights=config["class_weights"],
    )


def build_protocol(config: StageConfig) -> Any:
    """How the stage is tested: the config's `TestProtocol` on the frames that its data give.

    Nothing is mirrored that the data forbid to mirror.
    """
    data, protocol = config["data"], config["protocol"]
    share = f"{100 * (data['val_fraction'] or 0):g} %"
    on_val = f"the validation part ({share} of the training list)"
    return instantiate(
        {"tested_on": None if data["test"]["part"] == "test" else on_val} | protocol,
        frames=data["test"]["frames"],
        short_side=data["short_side"],
        crop_size=data["crop_size"],
        hflip=protocol["hflip"] and data["hflip"],
        _convert_="all",
    )
