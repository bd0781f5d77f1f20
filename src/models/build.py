"""Build a stage's network, module and data from its plan, in training and out of a checkpoint.

A plan is a plain dictionary: net, normalise, module, optimizer, data and protocol in `_target_`
form, and the few numbers beside them (see `src.training.plan.make_plan`). A run directory remembers
a stage by it, and a checkpoint carries it.
"""

from typing import Any

from hydra.utils import instantiate

from src.data.datamodule import VideoDataModule
from src.models.modules import VideoClassifier, VideoProtocol
from src.models.optimisation import Factors
from src.models.schedules import Schedule

Plan = dict[str, Any]
# The protocol of ST-ResNet's released implementation, the default.
WHOLE_FRAMES = {
    "_target_": "src.evaluation.protocol.TestProtocol",
    "crop": "whole",
    "mirror": True,
    "average": "logits",
}


def build_datamodule(plan: Plan) -> VideoDataModule:
    """The stage's data; nothing is read yet."""
    return instantiate(plan["data"], _convert_="all")


def build_net(plan: Plan) -> Any:
    """The stage's network, newly initialised."""
    return instantiate(plan["net"], _convert_="all")


def build_module(plan: Plan, net: Any) -> VideoClassifier:
    """The stage's LightningModule around its network."""
    optimizer = {key: value for key, value in plan["optimizer"].items() if key != "factors"}
    # called by itself, because Hydra would take apart those arguments that are dataclasses
    module = instantiate(plan["module"], _partial_=True, _convert_="all")
    return module(
        net=net,
        normalise=instantiate(plan["normalise"], _convert_="all"),
        optimizer=instantiate(optimizer, _convert_="all"),
        factors=build_factors(plan),
        num_classes=plan["data"]["num_classes"],
        protocol=build_protocol(plan),
    )


def build_schedule(plan: Plan) -> Schedule:
    """The stage's learning rate over its passes."""
    return instantiate(plan["module"]["schedule"], _convert_="all")


def build_factors(plan: Plan) -> Factors:
    """What that rate is multiplied by, for each kind of parameter."""
    return Factors(**plan["optimizer"].get("factors", {}))


def build_protocol(plan: Plan) -> VideoProtocol:
    """How the stage is tested: the plan's protocol on the frames that its data give.

    Nothing is mirrored that the data forbid to mirror.
    """
    data, protocol = plan["data"], plan["protocol"]
    return instantiate(
        protocol,
        frames=data["test_frames"],
        short_side=data["short_side"],
        crop_size=data["crop_size"],
        mirror=protocol["mirror"] and data["mirror"],
        tested_on=_tested_on(data),
        _convert_="all",
    )


def _tested_on(data: dict[str, Any]) -> str | None:
    if data.get("test_part") != "val":  # neither key is known to older plans
        return None
    return f"the validation part ({100 * (data['val_fraction'] or 0):g} % of the training list)"
