"""Build a stage's network, module and data from its plan, in training and out of a checkpoint.

A plan is a plain dictionary: net, normalise, module, optimizer and data in Hydra's `_target_`
form, and the few numbers beside them (see `src.training.plan.make_plan`). A run directory remembers
a stage by it, and a checkpoint carries it.
"""

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate

from src.data.datamodule import VideoDataModule
from src.errors import UserError
from src.models.modules import VideoClassifier

Plan = dict[str, Any]
# Every constructor that a plan may call; a checkpoint from elsewhere can ask for nothing more.
_TRUSTED = ("src.data.", "src.flow.settings.", "src.models.", "torch.optim.")


def build_datamodule(plan: Plan) -> VideoDataModule:
    """The stage's data; nothing is read yet."""
    return instantiate(plan["data"], _convert_="all")


def build_net(plan: Plan) -> Any:
    """The stage's network, newly initialised."""
    return instantiate(plan["net"], _convert_="all")


def build_module(plan: Plan, net: Any) -> VideoClassifier:
    """The stage's LightningModule around its network."""
    return instantiate(
        plan["module"],
        net=net,
        normalise=instantiate(plan["normalise"], _convert_="all"),
        optimizer=instantiate(plan["optimizer"], _convert_="all"),
        num_classes=plan["data"]["num_classes"],
        mirror=plan["data"]["mirror"],
        _convert_="all",
    )


def check_trusted(node: Any) -> None:
    """Refuse a plan out of a checkpoint that would call anything but our own constructors."""
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None and not str(target).startswith(_TRUSTED):
            raise UserError(f"this checkpoint asks to call {target}, which is not of this project")
        for value in node.values():
            check_trusted(value)
    elif isinstance(node, list):
        for value in node:
            check_trusted(value)
