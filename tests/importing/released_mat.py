"""MATLAB files of the structure of the released models, with random numbers in them.

A base stream is put together as MatConvNet's import of He et al.'s ResNets names and orders it, and
two of them are joined step by step as the released scripts do: layers are renamed, inflated,
inserted and appended, so that order and names come out as oddly as there.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

Array = npt.NDArray[Any]
BLOCKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}


@dataclass
class Layer:
    """A layer as DagNN.saveobj writes it."""

    name: str
    type: str
    inputs: list[str]
    outputs: list[str]
    params: list[str] = field(default_factory=list)
    block: dict[str, Any] = field(default_factory=dict)


@dataclass
class Net:
    """The struct of a DagNN."""

    layers: list[Layer] = field(default_factory=list)
    params: dict[str, Array] = field(default_factory=dict)
    average_image: Array | None = None

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def insert_after(self, name: str, layer: Layer) -> None:
        self.layers.insert(self.layers.index(self.layer(name)) + 1, layer)

    def redirect(self, old: str, new: str, but: Layer) -> None:
        """Let all layers but one read another variable."""
        for layer in self.layers:
            if layer is not but:
                layer.inputs = [new if name == old else name for name in layer.inputs]

    def save(self, path: Path, form: str = "net", compress: bool = True) -> Path:
        """Write it as `net`, as the "fields" of the file, or "wrapped" in another struct."""
        content = self.struct()
        forms = {"net": {"net": content}, "fields": content, "wrapped": {"model": {"net": content}}}
        scipy.io.savemat(path, forms[form], do_compression=compress, long_field_names=True)
        return path

    def struct(self) -> dict[str, Any]:
        variables = dict.fromkeys(v for layer in self.layers for v in layer.inputs + layer.outputs)
        normalization: dict[str, Any] = {"imageSize": np.array([[224.0, 224, 20]])}
        if self.average_image is not None:
            normalization["averageImage"] = self.average_image
        return {
            "vars": struct_array([{"name": v, "precious": False} for v in variables]),
            "params": struct_array(
                [
                    {"name": name, "value": value, "learningRate": 1.0, "weightDecay": 1.0}
                    for name, value in self.params.items()
                ]
            ),
            "layers": struct_array(
                [
                    {
                        "name": layer.name,
                        "type": layer.type,
                        "inputs": cell(layer.inputs),
                        "outputs": cell(layer.outputs),
                        "params": cell(layer.params),
                        "block": layer.block,
                    }
                    for layer in self.layers
                ]
            ),
            "meta": {"normalization": normalization, "curNumFrames": np.ones((1, 3))},
        }


def cell(values: list[Any]) -> Array:
    """A 1 x N cell array; 0 x 0 if it is empty."""
    array = np.empty((1, len(values)) if values else (0, 0), dtype=object)
    for index, value in enumerate(values):
        array[0, index] = value
    return array


def struct_array(elements: list[dict[str, Any]]) -> Array:
    """A 1 x N struct array."""
    array = np.empty((1, len(elements)), dtype=[(name, object) for name in elements[0]])
    for index, element in enumerate(elements):
        for name, value in element.items():
            array[0, index][name] = value
    return array


class Builder:
    """Adds layers to a net, with random parameters."""

    def __init__(self, seed: int, epsilon: float | None = 1e-5) -> None:
        self.net, self.rng, self.epsilon = Net(), np.random.default_rng(seed), epsilon

    def normal(self, *shape: int, std: float = 1.0) -> Array:
        return (self.rng.standard_normal(shape) * std).astype(np.float32)

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def add(self, name: str, kind: str, read: list[str], made: str, **rest: Any) -> str:
        self.net.layers.append(Layer(name, f"dagnn.{kind}", read, [made], **rest))
        return made

    def conv(
        self,
        name: str,
        read: str,
        shape: tuple[int, int, int, int],
        stride: int = 1,
        **options: Any,
    ) -> str:
        """A convolution; its parameters are called <param>_filter and <param>_bias."""
        param, bias = options.get("param", name), options.get("bias", False)
        fan_in = shape[0] * shape[1] * shape[2]
        self.net.params[f"{param}_filter"] = self.normal(*shape, std=(2 / fan_in) ** 0.5)
        if bias:
            self.net.params[f"{param}_bias"] = self.normal(shape[3], 1)
        return self.add(
            name,
            "Conv",
            [read],
            name,
            params=[f"{param}_filter", f"{param}_bias"][: 1 + bias],
            block={
                "size": np.array([shape], dtype=float),
                "hasBias": bool(bias),
                "opts": cell(["cuDNN"]),
                "pad": np.array([[shape[0] // 2] * 4], dtype=float),
                "stride": np.array([[stride, stride]], dtype=float),
                "dilate": np.ones((1, 2)),
            },
        )

    def norm(self, name: str, read: str, channels: int, **scales: float) -> str:
        low, sigma = scales.get("low", 0.5), scales.get("sigma", 1.0)
        self.net.params[f"{name}_mult"] = self.uniform(low, 2 * low, channels, 1)
        self.net.params[f"{name}_bias"] = self.normal(channels, 1, std=0.2)
        moments = np.stack(
            [self.normal(channels, std=0.3 * sigma), self.uniform(0.6, 1.4, channels) * sigma], 1
        )
        self.net.params[f"{name}_moments"] = moments
        block: dict[str, Any] = {"numChannels": float(channels), "opts": cell(["NoCuDNN"])}
        if self.epsilon is not None:
            block["epsilon"] = self.epsilon
        params = [f"{name}_{part}" for part in ("mult", "bias", "moments")]
        return self.add(name, "BatchNorm", [read], f"{read}x", params=params, block=block)

    def relu(self, name: str, read: str) -> str:
        block = {"useShortCircuit": True, "leak": 0.0, "opts": cell([])}
        return self.add(name, "ReLU", [read], f"{read}x", block=block)

    def pool(self, name: str, read: str, method: str, side: int, stride: int, pad: Any) -> str:
        return self.add(
            name, "Pooling", [read], name, block=pooling(method, (side, side), stride, pad)
        )


def pooling(method: str, size: tuple[int, int], stride: Any, pad: Any) -> dict[str, Any]:
    """The block of a Pooling or PoolTime."""
    return {
        "method": method,
        "poolSize": np.array([size], dtype=float),
        "opts": cell(["cuDNN"]),
        "pad": np.array([pad], dtype=float),
        "stride": np.array([np.broadcast_to(stride, 2)], dtype=float),
    }


def block_names(stage: int, blocks: int) -> list[str]:
    """a, b, c, ..., and in conv3_x and conv4_x of the deeper ResNets a, b1, b2, ..."""
    if stage in (3, 4) and blocks > 6:
        return ["a", *(f"b{number}" for number in range(1, blocks))]
    return [chr(ord("a") + index) for index in range(blocks)]


def base_stream(
    channels: int, depth: int = 50, width: int = 4, classes: int = 51, **options: Any
) -> Net:
    """A stream as it is released: `<ds>-img-resnet50-...mat` or `<ds>-resnet50-...-dr0.8.mat`.

    Options: seed; dropout, appended behind the classifier as the release does; losses; epsilon of
    the batch norms' blocks, None for files of before there was one.
    """
    b = Builder(options.get("seed", 0), options.get("epsilon", 1e-5))
    # Caffe's ResNet-50 has a bias in conv1, the deeper ones have none.
    v = b.conv("conv1", "input", (7, 7, channels, width), 2, bias=depth <= 50)
    b.net.layers[0].block["pad"] = np.array([[3.0, 3, 3, 3]])
    v = b.relu("conv1_relu", b.norm("bn_conv1", v, width, sigma=80.0))
    v, wide = b.pool("pool1", v, "max", 3, 2, [0, 1, 0, 1]), width
    for stage, blocks in enumerate(BLOCKS[depth], start=2):
        inner = width * 2 ** (stage - 2)
        for index, letter in enumerate(block_names(stage, blocks)):
            name, stride = f"{stage}{letter}", 2 if stage > 2 and index == 0 else 1
            shortcut = v
            if index == 0:
                shortcut = b.conv(f"res{name}_branch1", v, (1, 1, wide, 4 * inner), stride)
                shortcut = b.norm(f"bn{name}_branch1", shortcut, 4 * inner)
            branch = v
            shapes = ((1, 1, wide, inner), (3, 3, inner, inner), (1, 1, inner, 4 * inner))
            for part, shape in zip("abc", shapes, strict=True):
                step = stride if part == "a" else 1
                branch = b.conv(f"res{name}_branch2{part}", branch, shape, step)
                low = 0.25 if part == "c" else 0.5
                branch = b.norm(f"bn{name}_branch2{part}", branch, shape[3], low=low)
                if part != "c":
                    branch = b.relu(f"res{name}_branch2{part}_relu", branch)
            v = b.add(
                f"res{name}", "Sum", [shortcut, branch], f"res{name}", block={"numInputs": 2.0}
            )
            v, wide = b.relu(f"res{name}_relu", v), 4 * inner
    v = b.pool("pool5", v, "avg", 7, 1, [0, 0, 0, 0])
    logits = b.conv("fc1000", v, (1, 1, wide, classes), bias=True)
    net = b.net
    if options.get("dropout"):
        net.layers.append(
            Layer("drop_pool5", "dagnn.DropOut", [v], ["drop_pool5"], block={"rate": 0.8})
        )
        net.redirect(v, "drop_pool5", but=net.layers[-1])
    if options.get("losses", True):
        net.layers += [
            Layer("loss_fc1000", "dagnn.Loss", [logits, "label"], ["objective"]),
            Layer("top1error", "dagnn.Loss", [logits, "label"], ["top1error"]),
            Layer("top5error", "dagnn.Loss", [logits, "label"], ["top5error"]),
        ]
    net.average_image = b.uniform(90, 140, 1, 1, channels)
    return net


def joined(appearance: Net, motion: Net, kind: str, pool: tuple[int, int] | None) -> Net:
    """ST-ResNet ("Sum") or ST-MulNet ("Mul") out of two streams, as the released scripts make it.

    Args:
        appearance, motion: base streams.
        kind: of the connections' layers.
        pool: size and stride of the max pool over time.
    """
    net = Net()
    for stream, suffix in ((appearance, "spatial"), (motion, "temporal")):
        first_loss = next(i for i, x in enumerate(stream.layers) if x.type == "dagnn.Loss")
        stream.layers[first_loss - 1].name = "prediction"  # whatever it is
        last_pool = max(i for i, x in enumerate(stream.layers) if x.type == "dagnn.Pooling")
        stream.layers[last_pool - 1].name = "res5c_relu"
        for layer in stream.layers[:first_loss]:
            net.layers.append(renamed(layer, suffix))
        net.params |= {f"{name}_{suffix}": value for name, value in stream.params.items()}
    for letter in "2345":
        relu = f"res{letter}a_relu_spatial"
        fused = Layer(
            f"{relu}_sum",
            f"dagnn.{kind}",
            [
                net.layer(f"res{letter}a_relu_temporal").outputs[0],
                net.layer(f"res{letter}a_spatial").outputs[0],
            ],
            [f"{relu}_sum"],
            block={"numInputs": 2.0},
        )
        net.insert_after(relu, fused)
        net.layers[net.layers.index(fused) + 1].inputs[0] = fused.name
    for layer in net.layers:
        layer.inputs = ["input" if name == "input_spatial" else name for name in layer.inputs]
        layer.inputs = ["input_flow" if n == "input_temporal" else n for n in layer.inputs]
    if kind == "Sum":
        convert(net)
    else:
        inject(net, np.random.default_rng(7))
    if pool:
        pool_over_time(net, kind, pool)
    for suffix in ("spatial", "temporal"):
        logits = f"fc1000_{suffix}"
        maker = next(layer for layer in net.layers if layer.outputs == [logits])
        net.layers += [
            Layer(
                f"loss_{maker.name}", "dagnn.Loss", [logits, "label"], [f"objective_{maker.name}"]
            ),
            Layer(f"err1_{suffix}", "dagnn.Loss", [logits, "label"], [f"error_{suffix}"]),
        ]
    assert appearance.average_image is not None
    assert motion.average_image is not None
    net.average_image = np.concatenate([motion.average_image, appearance.average_image], axis=2)
    return net


def renamed(layer: Layer, suffix: str) -> Layer:
    """The layer with a suffix at all of its names."""
    return Layer(
        f"{layer.name}_{suffix}",
        layer.type,
        [f"{name}_{suffix}" for name in layer.inputs],
        [f"{name}_{suffix}" for name in layer.outputs],
        [f"{name}_{suffix}" for name in layer.params],
        layer.block,
    )


def pool_over_time(net: Net, kind: str, pool: tuple[int, int]) -> None:
    """A max pool over time before pool5; ST-MulNet's script appends it behind all layers."""
    for suffix in ("spatial", "temporal"):
        last = net.layer(f"res5c_relu_{suffix}")
        name = f"res5c_relu_pool_{suffix}" + ("1" if kind == "Mul" else "")
        block = pooling("max", (1, pool[0]), (1, pool[1]), [0, 0, 0, 0])
        layer = Layer(name, "dagnn.PoolTime", [last.outputs[0]], [name], block=block)
        if kind == "Sum":
            net.insert_after(last.name, layer)
        else:
            net.layers.append(layer)
        net.redirect(last.outputs[0], name, but=layer)


def convert(net: Net) -> None:
    """ST-ResNet: 1x1 convolutions of block 1 become 1x3 ones over time; training has moved them."""
    rng = np.random.default_rng(5)
    for layer in net.layers:
        if layer.type == "dagnn.Conv" and any(
            part in layer.name for part in ("b_branch2a", "b_branch2c")
        ):
            kernel = net.params[layer.params[0]]
            kernel = np.concatenate([kernel / 3] * 3, axis=1)
            kernel = kernel * rng.uniform(0.2, 1.8, kernel.shape).astype(np.float32)
            net.params[layer.params[0]] = kernel
            layer.type = "dagnn.ConvTime"
            layer.block = layer.block | {
                "size": np.array([kernel.shape], dtype=float),
                "pad": np.array([[0.0, 0, 1, 1]]),
                "stride": np.ones((1, 2)),
            }


def inject(net: Net, rng: np.random.Generator) -> None:
    """ST-MulNet: a 1x3 convolution after the ReLU of block 1's 3x3 one, where its name is found."""
    places = [
        index + 2
        for index, layer in enumerate(net.layers)
        if layer.type == "dagnn.Conv"
        and "b_branch2b" in layer.name
        and net.params[layer.params[0]].shape[0] == 3
    ]
    for relu in [net.layers[place] for place in places]:
        assert relu.type == "dagnn.ReLU"
        conv = net.layers[net.layers.index(relu) - 2]
        channels = net.params[conv.params[0]].shape[3]
        taps = np.array([0, 1, 0], dtype=np.float32)[:, None, None] * np.eye(channels)
        noise = 0.2 * rng.standard_normal((3, channels, channels))
        name = f"{relu.name}_Time"
        net.params[f"{name}_f"] = (taps + noise)[None].astype(np.float32)
        net.params[f"{name}_b"] = (0.1 * rng.standard_normal((channels, 1))).astype(np.float32)
        block = {
            "size": np.array([[1.0, 3, channels, channels]]),
            "hasBias": True,
            "opts": cell(["cuDNN"]),
            "pad": np.array([[0.0, 0, 1, 1]]),
            "stride": np.ones((1, 2)),
            "dilate": np.ones((1, 2)),
        }
        layer = Layer(
            name, "dagnn.ConvTime", list(relu.outputs), [name], [f"{name}_f", f"{name}_b"], block
        )
        net.layers.append(layer)
        net.redirect(relu.outputs[0], name, but=layer)
