"""A MatConvNet DagNN as plain data, read out of a MATLAB file: no code in it is run.

The network is `net`, or the fields of any struct, or the variables of the file themselves. Files of
versions 5, 6 and 7 are read; 7.3 is another format (HDF5) and refused with a word on re-saving.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import scipy.io

from src.utils.errors import UserError, first_line
from src.utils.processes import worker_pool

Array = npt.NDArray[Any]
Fields = Mapping[str, Any]
_HDF5 = b"\x89HDF\r\n\x1a\n"
_DEPTH = 3  # of structs that the network may be wrapped in


@dataclass(frozen=True)
class Layer:
    """One layer of a DagNN; `params` are names of parameters, in the order that its type defines.

    Parts are recognized by their types (MATLAB's classes, such as "dagnn.Conv") and by the
    variables that they read and make, not by names.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...]
    block: Mapping[str, str | tuple[float, ...]]  # settings of the type

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
    """A DagNN; its layers are in the file's order, which need not be that of execution."""

    source: str  # the file, for messages
    layers: tuple[Layer, ...]
    params: Mapping[str, Array]
    average_image: Array | None  # what is subtracted from the input (H, W, C)

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

    def readers(self, variable: str) -> list[Layer]:
        """The layers that read a variable; outputs have none."""
        return [layer for layer in self.layers if variable in layer.inputs]

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

    def filters(self, layer: Layer, *counts: int) -> Array:
        """The filters (H, W, Cin, Cout) of a convolution, with its bias one of `counts` arrays."""
        array = self.arrays(layer, *(counts or (1, 2)))[0]
        return array.reshape(array.shape + (1,) * (4 - array.ndim))  # MATLAB drops last ones of 1

    def error(self, reason: str) -> UserError:
        """The error that this is not a model that can be imported."""
        return UserError(f"{self.source} is not one of the released models: {reason}")


def read_dag(path: str | Path) -> Dag:
    """The network in a MATLAB file, read by a process of its own: damaged files crash SciPy.

    Raises:
        UserError: there is no such file, it is of another format, or holds no DagNN.
    """
    with worker_pool(1, __name__) as pool:
        try:
            return pool.submit(_read_dag, path).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{path} cannot be read as a MATLAB file: it crashes SciPy, or needs more memory "
                "than there is: download it again"
            ) from error


def _read_dag(path: str | Path) -> Dag:
    net = _find_network(_load(Path(path)), _DEPTH)
    if net is None:
        raise UserError(
            f"{path} holds no DagNN: no variable or struct in it has the fields layers and params "
            "(in MATLAB, save the struct that net.saveobj() gives)"
        )
    source = Path(path).name
    if _is_cell(net["layers"]):
        raise UserError(
            f"{source} holds a SimpleNN, not a DagNN: convert it in MATLAB with "
            "net = dagnn.DagNN.fromSimpleNN(net).saveobj()"
        )
    return Dag(
        source=source,
        layers=tuple(_layer(fields) for fields in _structs(net["layers"])),
        params=dict(_parameter(fields, source) for fields in _structs(net["params"])),
        average_image=_average_image(net),
    )


def _load(path: Path) -> Fields:
    """The variables of the file that can have to do with the network."""
    if not path.is_file():
        raise UserError(f"input {path} does not exist")
    with path.open("rb") as file:
        header = file.read(1024)
    if header.startswith(b"MATLAB 7.3") or _HDF5 in (header[:8], header[512:520]):
        raise UserError(
            f"{path} is a MATLAB file of version 7.3, which is not read: load it in MATLAB and "
            "save it with save('<file>.mat', '-struct', 'net', '-v7')"
        )
    try:
        names = [name for name, _, _ in scipy.io.whosmat(path)]
        # A file of a training has the solver's state beside the network, which is as large.
        return scipy.io.loadmat(path, variable_names=["net"] if "net" in names else None)
    except Exception as error:  # scipy's reader fails in a dozen ways on a file that is not its own
        reason = first_line(error)
        raise UserError(f"{path} cannot be read as a MATLAB file: {reason}") from error


def _find_network(fields: Fields, depth: int) -> Fields | None:
    """The struct that is a network, among these fields or in the structs in them."""
    if {"layers", "params"} <= fields.keys() or _is_cell(fields.get("layers")):
        return fields
    inner = (v for v in fields.values() if depth and _is_struct(v) and v.size == 1)
    networks = (_find_network(next(_structs(value)), depth - 1) for value in inner)
    return next((network for network in networks if network is not None), None)


def _is_struct(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.names is not None


def _is_cell(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


def _structs(value: Any) -> Iterator[Fields]:
    """The elements of a struct array; none if it is not one."""
    if _is_struct(value):
        for element in value.flat:
            yield {name: element[name] for name in value.dtype.names}


def _texts(value: Any) -> tuple[str, ...]:
    """The texts in a char array, or in a cell array of them, however deep."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "UO":
        return ()
    return tuple(text for element in value.flat for text in _texts(element) if text)


def _text(value: Any) -> str:
    return "".join(_texts(value))


def _layer(fields: Fields) -> Layer:
    inputs, outputs, params = (_texts(fields.get(key)) for key in ("inputs", "outputs", "params"))
    block = next(_structs(fields.get("block")), {})
    settings = {key: _setting(value) for key, value in block.items()}
    name, kind = _text(fields.get("name")), _text(fields.get("type"))
    return Layer(name, kind, inputs, outputs, params, settings)


def _setting(value: Any) -> str | tuple[float, ...]:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return tuple(float(number) for number in value.flat)
    return _text(value)


def _parameter(fields: Fields, source: str) -> tuple[str, Array]:
    name, value = _text(fields.get("name")), fields.get("value")
    if not _is_numeric(value):
        raise UserError(
            f"{source}: the values of parameter {name} are not numbers (of a network on a GPU? "
            "In MATLAB, net.move('cpu') before saving)"
        )
    return name, value


def _is_numeric(value: Any) -> TypeGuard[Array]:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf"


def _average_image(net: Fields) -> Array | None:
    fields: Fields = net
    for key in ("meta", "normalization"):
        fields = next(_structs(fields.get(key)), {})
    image = fields.get("averageImage")
    return image if _is_numeric(image) and image.size else None
