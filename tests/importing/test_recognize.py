"""Architectures are told by the layers alone, and whatever does not belong is named."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from src.importing.mat_file import Dag
from src.importing.mat_file import Layer as ReadLayer
from src.importing.recognize import Architecture, recognize
from src.models.temporal import TemporalPool
from src.utils.errors import UserError
from tests.importing.released_mat import Layer, Net, base_stream, joined


def joint(kind: str = "Sum", pool: tuple[int, int] | None = None) -> Net:
    return joined(base_stream(3, 26), base_stream(20, 26, dropout=True), kind, pool)


def found_in(net: Net) -> Architecture:
    """What is recognized in a network that has been read from net.mat."""
    layers = (
        ReadLayer(
            layer.name,
            layer.type,
            tuple(layer.inputs),
            tuple(layer.outputs),
            tuple(layer.params),
            {key: setting(value) for key, value in layer.block.items()},
        )
        for layer in net.layers
    )
    return recognize(Dag("net.mat", tuple(layers), net.params, net.average_image))


def setting(value: Any) -> str | tuple[float, ...]:
    return value if isinstance(value, str) else tuple(np.ravel(value).tolist())


def test_single_streams() -> None:
    for channels, depth, name in ((3, 50, "appearance"), (20, 152, "motion"), (12, 26, "motion")):
        net = base_stream(channels, depth, width=2, classes=9, losses=False)
        found = found_in(net)
        assert list(found.streams) == [name]
        stream = found.streams[name]
        assert (stream.depth, stream.width, stream.channels) == (depth, 2, channels)
        assert found.classes == 9
        assert (found.connection, found.filters, found.pool) == ("none", "none", None)


@pytest.mark.parametrize(
    ("kind", "pool", "connection", "filters"),
    [
        ("Sum", None, "additive", "inflated"),
        ("Sum", (5, 2), "additive", "inflated"),
        ("Mul", (5, 1), "multiplicative", "inserted"),
    ],
)
def test_joint_networks(
    kind: str, pool: tuple[int, int] | None, connection: str, filters: str
) -> None:
    found = found_in(joint(kind, pool))
    assert list(found.streams) == ["appearance", "motion"]
    assert (found.connection, found.connected) == (connection, (1, 2, 3, 4))
    assert (found.filters, found.filtered) == (filters, ("appearance", "motion"))
    assert found.pool == (pool and TemporalPool(*pool, "max"))


def test_injected_filters_that_the_release_did_not_find() -> None:
    """Its script looks for `b_branch2b`, but conv3_x and conv4_x of ResNet-152 have b1, b2, ..."""
    net = joined(base_stream(3, 26, width=2), base_stream(20, 152, width=2), "Mul", None)
    motion = found_in(net).streams["motion"]
    assert [blocks[1].temporal is not None for blocks in motion.stages] == [
        True,
        False,
        False,
        True,
    ]


def set_block(name: str, key: str, value: object) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        net.layer(name).block = net.layer(name).block | {key: value}

    return change


def set_inputs(name: str, *inputs: str) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        net.layer(name).inputs = list(inputs)

    return change


def set_type(name: str, kind: str) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        net.layer(name).type = f"dagnn.{kind}"

    return change


def remove(name: str) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        net.layers.remove(net.layer(name))

    return change


def append(layer: Layer) -> Callable[[Net], None]:
    return lambda net: net.layers.append(layer)


def drop_param(name: str) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        del net.params[name]

    return change


def add_param(name: str) -> Callable[[Net], None]:
    return lambda net: net.params.update({name: np.zeros((2, 2), dtype=np.float32)})


STRIDE_2 = np.array([[2.0, 2.0]])
ODD = [
    (set_type("bn2a_branch2a", "LRN"), "layer bn2a_branch2a (dagnn.LRN) is of a type"),
    (remove("res3b_relu"), "reads res3bx, which no dagnn.ReLU or dagnn.Pooling makes"),
    (remove("bn3b_branch2b"), "reads res3b_branch2bx, which no dagnn.BatchNorm"),
    (remove("fc1000"), "it has no classifier"),
    (drop_param("bn4a_branch1_moments"), "bn4a_branch1_moments, whose values are missing"),
    (drop_param("res5b_branch2b_filter"), "res5b_branch2b_filter, whose values are missing"),
    (add_param("left_over"), "the parameter left_over belongs to no layer"),
    (append(Layer("spare", "dagnn.ReLU", ["conv1"], ["spare"])), "layer spare (dagnn.ReLU) has no"),
    (append(Layer("twin", "dagnn.ReLU", ["conv1"], ["conv1x"])), "both make conv1x"),
    (set_block("res3a_branch2a", "stride", np.ones((1, 2))), "has stride [1, 1], not [2, 2]"),
    (set_block("res3a_branch2b", "stride", STRIDE_2), "has stride [2, 2], not [1, 1]"),
    (set_block("conv1", "pad", np.zeros((1, 4))), "conv1 (dagnn.Conv) has pad [0, 0, 0, 0]"),
    (set_block("pool1", "pad", np.ones((1, 4))), "pool1 (dagnn.Pooling) has pad [1, 1, 1, 1]"),
    (set_block("pool1", "method", "avg"), "pools avg, not max"),
    (set_block("conv1", "dilate", STRIDE_2), "has dilate [2, 2]"),
    (set_block("res2a_relu", "leak", 0.1), "is leaky"),
    (set_inputs("res2b", "res2ax", "pool1"), "res2b (dagnn.Sum) does not add a residual branch"),
    (set_inputs("res2b_branch2a", "pool1"), "res2b_branch2a (dagnn.Conv) comes after layer pool1"),
    (set_inputs("conv1", "res2ax"), "conv1 (dagnn.Conv) does not read the input"),
]
ODD_JOINT = [
    (set_type("res3a_relu_spatial_sum", "Mul"), "some of its connections add and some multiply"),
    (
        set_inputs("res3a_relu_spatial_sum", "res3bx_temporal", "res3a_spatial"),
        "reads res3bx_temporal, not res3ax_temporal of motion",
    ),
    (
        set_inputs("res3a_relu_spatial_sum", "res3ax_temporal", "res3ax_spatial"),
        "res3a_relu_spatial_sum (dagnn.Sum) does not join",
    ),
    (remove("res4a_relu_spatial_sum"), "reads res4a_relu_spatial_sum, which no dagnn.Sum"),
    (set_type("res4b_branch2c_temporal", "Conv"), "has size [1, 3], not [1, 1]"),
    (set_type("res5b_branch2b_spatial", "ConvTime"), "not after a dagnn.Conv"),
    (
        set_block("res5c_relu_pool_spatial", "poolSize", np.array([[1.0, 4]])),
        "not pooled over time alike",
    ),
    (
        set_block("res5c_relu_pool_spatial", "poolSize", np.array([[1.0, np.inf]])),
        "no maximum or average over time",
    ),
    (set_block("res5c_relu_pool_spatial", "stride", STRIDE_2), "no maximum or average over time"),
]


@pytest.mark.parametrize(("change", "reason"), ODD)
def test_odd_stream_is_refused(change: Callable[[Net], None], reason: str) -> None:
    net = base_stream(20, 26, dropout=True)
    change(net)
    with pytest.raises(UserError) as error:
        found_in(net)
    assert reason in str(error.value)
    assert str(error.value).startswith("net.mat is not one of the released models: ")


def test_circle_is_refused() -> None:
    net = base_stream(3, 26)
    set_inputs("res3b", "res3bx", net.layer("res3b").inputs[1])(net)
    set_inputs("res3b_branch2a", "res3bx")(net)
    with pytest.raises(UserError, match="leads into a block without a projection"):
        found_in(net)


@pytest.mark.parametrize(("change", "reason"), ODD_JOINT)
def test_odd_joint_network_is_refused(change: Callable[[Net], None], reason: str) -> None:
    net = joint("Sum", (5, 2))
    change(net)
    with pytest.raises(UserError) as error:
        found_in(net)
    assert reason in str(error.value)


def test_unconnected_streams_and_twins_are_refused() -> None:
    net = joint("Sum", None)
    for stage in "2345":
        name = f"res{stage}a_relu_spatial_sum"
        net.layers.remove(net.layer(name))
        net.redirect(name, f"res{stage}ax_spatial", but=net.layers[0])
    with pytest.raises(UserError, match="its streams are not connected"):
        found_in(net)
    with pytest.raises(UserError, match="both are of appearance"):
        found_in(joined(base_stream(3, 26), base_stream(3, 26), "Sum", None))
    with pytest.raises(UserError, match="classifiers of 51 and 101 classes"):
        found_in(joined(base_stream(3, 26), base_stream(20, 26, classes=101), "Sum", None))
