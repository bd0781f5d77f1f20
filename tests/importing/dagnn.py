"""An interpreter of MatConvNet's DagNN in float64: the reference that imports are compared with.

It knows nothing of ResNets: it reads the file, and runs one layer after the other by the formulas
of MatConvNet's manual and of the released ConvTime and PoolTime.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
import torch.nn.functional as F
from torch import Tensor


class DagNN:
    """A network in evaluation mode, for one video at a time.

    Args:
        path: a MATLAB file in which the network is `net`.
    """

    def __init__(self, path: Path) -> None:
        content = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=False)
        net = content["net"][0, 0]
        self.layers = list(net.layers.flat)
        self.params = {
            p.name[0]: torch.tensor(p.value, dtype=torch.float64) for p in net.params.flat
        }
        image = net.meta[0, 0].normalization[0, 0].averageImage
        self.average_image = torch.tensor(image, dtype=torch.float64).mean((0, 1))

    def run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """All variables (frames, C, H, W), from the input variables."""
        values = dict(inputs)
        waiting = [layer for layer in self.layers if "Loss" not in layer.type[0]]
        while waiting:
            ready = [x for x in waiting if all(name in values for name in names(x.inputs))]
            assert ready, f"nothing makes the inputs of {[layer.name[0] for layer in waiting]}"
            for layer in ready:
                forward = getattr(self, layer.type[0].removeprefix("dagnn."))
                params = [self.params[name] for name in names(layer.params)]
                block = layer.block[0, 0] if layer.block.size else None
                values[names(layer.outputs)[0]] = forward(
                    block, [values[name] for name in names(layer.inputs)], params
                )
            waiting = [layer for layer in waiting if layer not in ready]
        return values

    def predictions(self, inputs: dict[str, Tensor], classes: int) -> list[Tensor]:
        """Logits (frames, classes) of every layer whose filters make so many, over positions."""
        values = self.run(inputs)
        return [
            values[names(layer.outputs)[0]].mean((2, 3))
            for layer in self.layers
            if names(layer.params)
            and self.params[names(layer.params)[0]].ndim == 4
            and self.params[names(layer.params)[0]].shape[3] == classes
        ]

    def Conv(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        top, bottom, left, right = numbers(block.pad)
        x = F.pad(inputs[0], (left, right, top, bottom))
        bias = params[1].flatten() if len(params) > 1 else None
        stride = numbers(block.stride)
        return F.conv2d(x, params[0].permute(3, 2, 0, 1), bias, stride=tuple(stride))

    def ConvTime(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        return in_sheets(inputs[0], lambda sheet: self.Conv(block, [sheet], params))

    def BatchNorm(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        gain, offset, moments = params
        mean, sigma = moments.unbind(1)
        scaled = (inputs[0] - mean[:, None, None]) / sigma[:, None, None]
        return gain.flatten()[:, None, None] * scaled + offset.flatten()[:, None, None]

    def ReLU(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        return inputs[0].clamp(min=0)

    def Pooling(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        top, bottom, left, right = numbers(block.pad)
        size, stride = numbers(block.poolSize), tuple(numbers(block.stride))
        around = (left, right, top, bottom)
        if block.method[0] == "max":
            windows = F.pad(inputs[0], around, value=-torch.inf)
            return windows.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1]).amax((4, 5))
        windows, counts = F.pad(inputs[0], around), F.pad(torch.ones_like(inputs[0]), around)
        total, count = (
            x.unfold(2, size[0], stride[0]).unfold(3, size[1], stride[1]).sum((4, 5))
            for x in (windows, counts)
        )
        return total / count

    def PoolTime(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        return in_sheets(inputs[0], lambda sheet: self.Pooling(block, [sheet], params))

    def Sum(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        return torch.stack(inputs).sum(0)

    def Mul(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        return torch.stack(inputs).prod(0)

    def DropOut(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        return inputs[0]

    def SoftMax(self, block: Any, inputs: list[Tensor], params: list[Tensor]) -> Tensor:
        return inputs[0].softmax(1)


def names(cell: Any) -> list[str]:
    """The texts of a cell array."""
    return [str(np.squeeze(element)) for element in cell.flat]


def numbers(array: Any) -> list[int]:
    """A row of integers."""
    return [int(number) for number in array.flat]


def in_sheets(x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a layer over frames (T, C, H, W): positions are its rows, frames its columns."""
    frames, channels, height, width = x.shape
    sheet = x.permute(1, 2, 3, 0).reshape(1, channels, height * width, frames)
    return layer(sheet)[0].unflatten(1, (height, width)).permute(3, 0, 1, 2)
