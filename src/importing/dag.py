"""A MatConvNet DagNN as plain data: layers that make variables out of variables and parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from src.errors import UserError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """One layer of a DagNN.

    Args:
        name: as in the file; its parts are told by their types and connections, never by names.
        type: MATLAB's class, such as "dagnn.Conv".
        inputs, outputs: names of variables.
        params: names of parameters, in the order that the type defines.
        block: settings of the type: texts, and numbers as tuples.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...]
    block: Mapping[str, str | tuple[float, ...]]

    def __str__(self) -> str:
        return f"layer {self.name} ({self.type})"

    def numbers(self, key: str, count: int, default: float) -> tuple[float, ...]:
        """A setting as `count` numbers; as in MatConvNet, fewer stand for more.

        One stands for all, and two for four are those of the first and of the second dimension.
        """
        given = self.block.get(key, ())
        values = (default,) if isinstance(given, str) or not given else given
        if len(values) == 2 and count == 4:
            return (values[0], values[0], values[1], values[1])
        return values * count if len(values) == 1 else values


@dataclass(frozen=True)
class Dag:
    """A whole DagNN.

    Args:
        source: the file, for messages.
        layers: in the file's order, which need not be that of execution.
        params: arrays by name.
        average_image: what is subtracted from the input (H, W, C), None if the file has none.
    """

    source: str
    layers: tuple[Layer, ...]
    params: Mapping[str, Array]
    average_image: Array | None

    @cached_property
    def makers(self) -> dict[str, Layer]:
        """The layer that makes each variable; inputs have none.

        Raises:
            UserError: two layers make the same one.
        """
        made: dict[str, Layer] = {}
        for layer in self.layers:
            for variable in layer.outputs:
                if variable in made:
                    raise self.error(f"{made[variable]} and {layer} both make {variable}")
                made[variable] = layer
        return made

    @cached_property
    def readers(self) -> dict[str, list[Layer]]:
        """The layers that read each variable; outputs have none."""
        read: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for variable in layer.inputs:
                read.setdefault(variable, []).append(layer)
        return read

    def arrays(self, layer: Layer, *counts: int) -> list[Array]:
        """The parameters of a layer, of which there must be as many as one of `counts`.

        Raises:
            UserError: there are more or fewer, or the file lacks one.
        """
        if len(layer.params) not in counts:
            expected = " or ".join(map(str, counts))
            raise self.error(f"{layer} has {len(layer.params)} parameters, not {expected}")
        for name in layer.params:
            if name not in self.params:
                raise self.error(f"{layer} has the parameter {name}, whose values are missing")
        return [self.params[name] for name in layer.params]

    def error(self, reason: str) -> UserError:
        """The error that this is not a model that can be imported."""
        return UserError(f"{self.source} is not one of the released models: {reason}")


def filters(array: Array) -> Array:
    """An array of filters with all of its four dimensions: MATLAB drops last ones of size 1."""
    return np.reshape(array, array.shape + (1,) * (4 - array.ndim))
