"""Starting a network from other weights: ImageNet's, a stream's, an earlier stage's.

Weights are matched by name. Two shapes are inflated on the way, both known from the papers: conv1
from 3 RGB channels to 2L of flow, and a 1x1 filter to a kernel over time; how, the convolutions
themselves know. The way back, from a kernel to a 1x1 filter, sums it: what a still clip sees. A
classifier of other classes starts anew, and so does a temporal filter that the other network did
not have. Anything else that does not fit is refused.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from src.models.resnet import ResNet, StemConv
from src.models.temporal_conv import SpatialConv, TemporalConv
from src.utils.errors import UserError, first_line


@dataclass
class LoadReport:
    """What became of each tensor: taken as is, inflated, summed over time, new, or not used."""

    loaded: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    summed: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for title, names in (
            ("inflated", self.inflated),
            ("summed over time", self.summed),
            ("newly initialized", self.new),
            ("not used", self.left_over),
        ):
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {title} ({shown})")
        return ", ".join(parts)


def check_same_shapes(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are not those of this network; it may be on the meta device.

    A config asks for a network of any size, and its weights are there already: what fits them takes
    no more memory than they do.

    Raises:
        UserError: a tensor is missing or has another shape, or several are one in the file.
    """
    stored: dict[int, int] = {}
    needed = 0
    for name, own in net.state_dict().items():
        given = weights.get(name)
        if given is None and name.endswith("num_batches_tracked"):
            continue  # older checkpoints lack it
        if given is None:
            raise UserError(f"{source} does not fit its own config: it has no {name}")
        _check_shape(name, given, own.shape, f"{source} does not fit its own config")
        needed += given.numel() * given.element_size()
        if given.layout == torch.strided:
            stored[given.untyped_storage().data_ptr()] = given.untyped_storage().nbytes()
    if needed > sum(stored.values()):
        raise UserError(f"{source} has fewer numbers than its tensors: some of them are one")


def load_weights(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> LoadReport:
    """Load a state dict into a net whose names it shares, inflating shapes where that is known.

    Raises:
        UserError: a tensor is missing, does not fit or has no finite numbers, or the network has
            the module that it is for, but without it; `net` is then unchanged.
    """
    report, fitted = LoadReport(), {}
    own = net.state_dict()
    for name, tensor in own.items():
        given = weights.get(name)
        path = name.split(".")
        module = net.get_submodule(".".join(path[:-1]))
        if given is not None:
            _check_numbers(name, given, tensor, source)
        if given is None and name.endswith("num_batches_tracked"):
            continue  # older checkpoints lack it
        if given is not None and given.shape == tensor.shape:
            fitted[name] = given
            report.loaded.append(name)
        elif "fc" in path or (given is None and path[-2] == "temporal"):
            report.new.append(name)
        elif given is None:
            raise UserError(f"{source} does not fit this network: it has no {name}")
        elif (inflated := _inflated(module, given, tensor.shape)) is not None:
            fitted[name] = inflated
            report.inflated.append(name)
        elif isinstance(module, SpatialConv) and given.ndim == 5 and tensor.ndim == 4:
            fitted[name] = given.sum(2)
            report.summed.append(name)
        else:
            _check_shape(name, given, tensor.shape, f"{source} does not fit this network")
    report.left_over = [name for name in weights if name not in own]
    parts = dict(net.named_children())
    for name in report.left_over:
        if name.split(".")[0] in parts:  # a deeper network, or one with temporal filters
            raise UserError(f"{source} does not fit this network, which has no {name}")
    try:
        net.load_state_dict(own | fitted)
    except RuntimeError as error:  # of a kind that cannot be copied, such as a sparse one
        reason = " ".join(str(error).split())
        raise UserError(f"{source} does not fit this network: {reason}") from error
    return report


def _check_shape(name: str, given: Tensor, shape: torch.Size, source: str) -> None:
    if given.shape != shape:
        raise UserError(f"{source}: {name} is {tuple(given.shape)} there and {tuple(shape)} here")


def _check_numbers(name: str, given: Tensor, own: Tensor, source: str) -> None:
    """Refuse a tensor of which no number can come."""
    if given.layout != torch.strided:
        reason = f"is stored as {str(given.layout).removeprefix('torch.')}"
    elif given.is_floating_point() != own.is_floating_point() or given.dtype == torch.bool:
        reason = f"is {given.dtype}, not {own.dtype}".replace("torch.", "")
    elif not given.isfinite().all():
        reason = "has numbers that are not finite: its training has diverged"
    else:
        return
    raise UserError(f"{source} does not fit this network: {name} {reason}")


def _inflated(module: nn.Module, given: Tensor, shape: torch.Size) -> Tensor | None:
    """The given filter inflated to a module's shape, None if it cannot be."""
    if given.ndim != 4 or not isinstance(module, StemConv | TemporalConv):
        return None
    if isinstance(module, StemConv) and given.shape[1] != 3:
        return None
    inflated = module.inflate(given)
    return inflated if inflated.shape == shape else None


def of_part(weights: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The weights of one part ("appearance", "motion") out of a joint net's; others as they are."""
    return _under(weights, f"{part}.") or dict(weights)


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


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
            "and give its path as model.backbone.weights, or null for none"
        ) from error


def imagenet_normalization(net: nn.Module, name: str) -> dict[str, list[float]]:
    """rgb_mean and rgb_std, in 0..255, that torchvision's weights were trained with.

    Of a motion stream's ImageNet weights nothing follows for flow.
    """
    if not isinstance(net, ResNet) or net.in_channels != 3:
        return {}
    preset = imagenet_entry(net, name).transforms()
    return {
        "rgb_mean": [255 * value for value in preset.mean],
        "rgb_std": [255 * value for value in preset.std],
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint or a file of weights as data; no code in it is run.

    Raises:
        UserError: it does not exist or is not such a file.
    """
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        _check_stored(Path(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's loader fails in a dozen ways on a file that is not its own
        raise UserError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict")
    return content


def _check_stored(path: Path) -> None:
    """Refuse an archive whose parts would take more memory than the file has bytes.

    Raises:
        ValueError: it is such a one, or broken. A file that is no archive is left to its reader.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > path.stat().st_size:
        raise ValueError(f"its parts claim {claimed:,} bytes, the file has {path.stat().st_size:,}")


def net_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The net's state dict out of a Lightning checkpoint of ours, or a bare one as it is."""
    if "state_dict" not in content:
        return _tensors(content)
    return _under(_tensors(content["state_dict"]), "net.")


def _tensors(content: Any) -> dict[str, Tensor]:
    """What may be weights in a dictionary from elsewhere; nothing of anything else."""
    named = content.items() if isinstance(content, Mapping) else ()
    return {
        name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)
    }
