"""The parameters of a released network under the names that they have here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from src.importing.mat_file import Array, Dag, Layer
from src.importing.recognize import Architecture
from src.importing.walk import TIME, ConvNorm, Stream
from src.models.connection import STAGES
from src.models.resnet import FUSION_BLOCK

EPSILON = nn.BatchNorm2d(1).eps  # of every batch norm of the networks here


class Weight(NamedTuple):
    """A float32 tensor for a network here, and where it comes from."""

    tensor: Tensor
    source: str  # the parameter of the file, or why there is none
    in_file: bool = True


def weights(dag: Dag, architecture: Architecture, rows: Sequence[int]) -> dict[str, Weight]:
    """All tensors of the network by name, but for the batches that its batch norms have counted.

    `rows` are for each class here its number in the file.

    Raises:
        UserError: an array has not the shape that its kind of layer has.
    """
    alone = len(architecture.streams) == 1
    tensors = {}
    for name, stream in architecture.streams.items():
        inserted = architecture.filters == "inserted" and name in architecture.filtered
        for key, weight in _stream(dag, stream, rows, inserted):
            tensors[key if alone else f"{name}.{key}"] = weight
    return tensors


def _stream(
    dag: Dag, stream: Stream, rows: Sequence[int], inserted: bool
) -> Iterator[tuple[str, Weight]]:
    yield from _conv(dag, stream.stem.conv, "conv1", with_bias=True)
    yield from _norm(dag, stream.stem.norm, "bn1")
    for stage, blocks in zip(STAGES, stream.stages, strict=True):
        for index, block in enumerate(blocks):
            place = f"layer{stage}.{index}"
            for number, part in enumerate(block.branch, start=1):
                yield from _conv_norm(dag, part, f"{place}.conv{number}", f"{place}.bn{number}")
            if block.shortcut:
                yield from _conv_norm(
                    dag, block.shortcut, f"{place}.downsample.0", f"{place}.downsample.1"
                )
            if block.temporal:
                yield from _conv(dag, block.temporal, f"{place}.temporal", with_bias=True)
            elif inserted and index == FUSION_BLOCK:
                channels = dag.filters(block.branch[1].conv).shape[3]
                yield from _identity(channels, f"{place}.temporal")
    weight, bias = dag.filters(stream.classifier), dag.arrays(stream.classifier, 2)[1]
    names = stream.classifier.params
    yield "fc.weight", Weight(_tensor(weight[0, 0].T[list(rows)]), names[0])
    yield "fc.bias", Weight(_tensor(bias.flatten()[list(rows)]), names[1])


def _conv_norm(dag: Dag, part: ConvNorm, conv: str, norm: str) -> Iterator[tuple[str, Weight]]:
    """A convolution and its batch norm, whose mean takes in the bias that the file may have."""
    yield from _conv(dag, part.conv, conv, with_bias=False)
    biases = dag.arrays(part.conv, 1, 2)[1:]
    yield from _norm(dag, part.norm, norm, biases[0].flatten() if biases else 0.0)


def _conv(dag: Dag, layer: Layer, name: str, with_bias: bool) -> Iterator[tuple[str, Weight]]:
    """A convolution. Both libraries correlate, so nothing is mirrored."""
    filters, biases = dag.filters(layer), dag.arrays(layer, 1, 2)[1:]
    if layer.type == TIME:  # (1, T, Cin, Cout) to (Cout, Cin, T, 1, 1)
        weight = _tensor(filters.transpose(3, 2, 1, 0)[..., None])
    else:  # (H, W, Cin, Cout) to (Cout, Cin, H, W)
        weight = _tensor(filters.transpose(3, 2, 0, 1))
    yield f"{name}.weight", Weight(weight, layer.params[0])
    if with_bias and biases:
        yield f"{name}.bias", Weight(_tensor(biases[0].flatten()), layer.params[1])
    elif with_bias:
        zeros = torch.zeros(filters.shape[3])
        yield f"{name}.bias", Weight(zeros, f"zeros, as {layer.name} has no bias", in_file=False)


def _norm(
    dag: Dag, layer: Layer, name: str, bias_before: Array | float = 0.0
) -> Iterator[tuple[str, Weight]]:
    """A batch norm. Its moments are the mean and sigma = sqrt(variance + epsilon), which evaluation
    divides by as it is: the variance for our epsilon gives the same, whatever the file's was."""
    scale, bias, moments = (array.astype(np.float64) for array in dag.arrays(layer, 3))
    if moments.ndim != 2 or moments.shape[1] != 2:
        raise dag.error(f"{layer} has moments of shape {moments.shape}, not (channels, 2)")
    for key, values, param in (
        ("weight", scale, 0),
        ("bias", bias, 1),
        ("running_mean", moments[:, 0] - bias_before, 2),
        ("running_var", moments[:, 1] ** 2 - EPSILON, 2),
    ):
        yield f"{name}.{key}", Weight(_tensor(values.flatten()), layer.params[param])


def _identity(channels: int, name: str) -> Iterator[tuple[str, Weight]]:
    """An inserted filter that the file does not have at this stage: it changes nothing."""
    weight = torch.zeros(channels, channels, 3, 1, 1)
    weight[:, :, 1, 0, 0] = torch.eye(channels)
    why = "the identity, as there is no temporal filter at this stage"
    yield f"{name}.weight", Weight(weight, why, in_file=False)
    yield f"{name}.bias", Weight(torch.zeros(channels), why, in_file=False)


def fill(net: nn.Module, tensors: Mapping[str, Weight], dag: Dag) -> None:
    """Give a network all of these weights.

    Raises:
        UserError: names or shapes differ from the network's; it is then unchanged.
    """
    own = net.state_dict()
    for name, weight in tensors.items():
        if name not in own or own[name].shape != weight.tensor.shape:
            shape = tuple(own[name].shape) if name in own else "none"
            raise dag.error(
                f"{weight.source} would be {name} of shape {tuple(weight.tensor.shape)}, where "
                f"the network has {shape}"
            )
    missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
    if missing:
        raise dag.error(f"nothing in it would be {missing[0]}")
    net.load_state_dict(own | {name: weight.tensor for name, weight in tensors.items()})


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def means(dag: Dag, flow_channels: int, rgb_channels: int) -> tuple[list[float], list[float]]:
    """The means in 0..255 of the flow (2L or no channels) and of the RGB (3 or no channels).

    The file's average image has both for a joint network, flow first; an image of more than one
    pixel is averaged over its positions, as the released implementation does.

    Raises:
        UserError: there is no average image, or it has other channels.
    """
    image, channels = dag.average_image, flow_channels + rgb_channels
    if image is None:
        raise dag.error(
            "it has no meta.normalization.averageImage to subtract from the input; in MATLAB, set "
            f"it to 1 x 1 x {channels} means, 128 for flow"
        )
    if image.ndim < 3:  # one pixel, as a row or a column
        image = image.reshape(1, 1, -1)
    if image.shape[2] != channels:
        raise dag.error(
            f"meta.normalization.averageImage has {image.shape[2]} channels, not {channels}"
        )
    values = image.astype(np.float64).mean((0, 1)).tolist()
    return values[:flow_channels], values[flow_channels:]
