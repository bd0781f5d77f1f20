"""Starting a network from other weights: ImageNet's, a stream's, an earlier stage's.

Weights are matched by name. Two shapes grow on the way, both known from the papers: conv1 from 3
RGB channels to 2L of flow, and a 1x1 filter to three taps over time. A classifier of other classes
starts anew. Anything else that does not fit is refused.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from src.errors import UserError
from src.models.resnet import ResNet, inflate_over_time

log = logging.getLogger(__name__)
CLASSIFIER = "fc."


@dataclass
class LoadReport:
    """What became of each tensor: taken as it is, grown, started anew, or not used."""

    loaded: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for title, names in (
            ("inflated", self.inflated),
            ("newly initialised", self.new),
            ("not used", self.left_over),
        ):
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {title} ({shown})")
        return ", ".join(parts)


def load_weights(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> LoadReport:
    """Load a state dict into a net whose names it shares, growing shapes where that is known.

    Args:
        net: changed in place.
        weights: state dict of a net of the same kind.
        source: where they come from, for messages.

    Raises:
        UserError: a tensor is missing or does not fit; `net` is then unchanged.
    """
    report, fitted = LoadReport(), {}
    own = net.state_dict()
    for name, tensor in own.items():
        given = weights.get(name)
        classifier = name.startswith(CLASSIFIER) or f".{CLASSIFIER}" in name
        if given is None and name.endswith("num_batches_tracked"):
            continue  # older checkpoints lack it
        if given is not None and given.shape == tensor.shape:
            fitted[name] = given
            report.loaded.append(name)
        elif classifier:
            report.new.append(name)
        elif given is None:
            raise UserError(f"{source} does not fit this network: it has no {name}")
        elif (grown := _grown(name, given, tensor)) is not None:
            fitted[name] = grown
            report.inflated.append(name)
        else:
            raise UserError(
                f"{source} does not fit this network: {name} is {tuple(given.shape)} there "
                f"and {tuple(tensor.shape)} here"
            )
    report.left_over = [name for name in weights if name not in own]
    net.load_state_dict(own | fitted)
    return report


def _grown(name: str, given: Tensor, wanted: Tensor) -> Tensor | None:
    if name.endswith("conv1.weight") and given.ndim == 4 == wanted.ndim and given.shape[1] == 3:
        grown = inflate_conv1(given, wanted.shape[1])
    elif given.ndim == 4 and wanted.ndim == 5:
        grown = inflate_over_time(given, wanted.shape[2])
    else:
        return None
    return grown if grown.shape == wanted.shape else None


def inflate_conv1(weight: Tensor, channels: int) -> Tensor:
    """RGB filters (C, 3, H, W) for `channels` input channels: their mean, copied to each."""
    return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1)


def imagenet_entry(net: nn.Module, name: str) -> Any:
    """torchvision's entry for ImageNet weights of this depth, by enum name, e.g. IMAGENET1K_V1.

    Raises:
        UserError: there is none; or the part is not a single stream.
    """
    if not isinstance(net, ResNet):
        raise UserError(f"{name} is for single streams: a joint network starts from its streams")
    kind = f"ResNet{net.depth}_Weights"
    available = getattr(torchvision.models, kind, None)
    if available is None or name not in available.__members__:
        names = ", ".join(available.__members__) if available else "none"
        raise UserError(f"torchvision has no weights {kind}.{name}: it has {names}")
    return available[name]


def imagenet_weights(net: nn.Module, name: str) -> dict[str, Tensor]:
    """ImageNet weights for a stream, downloaded by torch.hub on first use.

    Raises:
        UserError: there are no such weights, or they cannot be downloaded.
    """
    entry = imagenet_entry(net, name)
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # torch.hub: no connection, or a damaged file
        raise UserError(
            f"the weights {entry.url} cannot be downloaded ({error}): fetch the file elsewhere "
            "and give its path as model.backbone.pretrained, or null for none"
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint or a file of weights as data; no code in it is run.

    Raises:
        UserError: it does not exist or is not such a file.
    """
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's loader fails in a dozen ways on a file that is not its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict")
    return content


def net_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The net's state dict out of a Lightning checkpoint of ours, or a bare one as it is."""
    if "state_dict" not in content:
        return dict(content)
    prefix = "net."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(prefix)
    }
