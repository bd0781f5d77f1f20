"""TwoStreamResNet against the naive reading of the papers in `reference`, and what follows."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from src.models.connection import Connection
from src.models.resnet import appearance_stream, motion_stream
from src.models.temporal import TemporalFilters, TemporalPool
from src.models.two_stream import TwoStreamResNet
from tests.builders import randomise
from tests.models.reference import Reference

CLASSES, STACK = 5, 2
NO_FILTERS = TemporalFilters("none")
INFLATED = {
    f"{stream}.layer{stage}.1.conv{conv}.weight"
    for stream in ("appearance", "motion")
    for stage in (1, 2, 3, 4)
    for conv in (1, 3)
}


def two_streams(
    depth: int = 26,
    motion_depth: int | None = None,
    width: int = 4,
    style: str = "torchvision",
    gradient_checkpointing: bool = False,
    **options: Any,
) -> TwoStreamResNet:
    stream: dict[str, Any] = {"style": style, "gradient_checkpointing": gradient_checkpointing}
    net = TwoStreamResNet(
        appearance_stream(CLASSES, depth, width, **stream),
        motion_stream(CLASSES, STACK, motion_depth or depth, width, **stream),
        **options,
    )
    randomise(net)
    return net


def clips(frames: int = 3, height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    size = (frames, height, width)
    rgb, flow = torch.randn(2, 3, *size), torch.randn(2, 2 * STACK, *size)
    return rgb.double(), flow.double()


def check(net: TwoStreamResNet, batch: tuple[Tensor, Tensor], **options: Any) -> None:
    assert_close(net(*batch), Reference(dict(net.state_dict()), **options)(*batch))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("style", ["torchvision", "caffe"])
@pytest.mark.parametrize("filters", ["none", "inflated", "inserted"])
@pytest.mark.parametrize(
    "connection",
    [
        {"kind": "none"},
        {"kind": "additive"},
        {"kind": "multiplicative"},
        {"kind": "additive", "spatial": False},
        {"kind": "multiplicative", "spatial": False},
        {"kind": "additive", "path": "direct"},
        {"kind": "multiplicative", "path": "direct"},
        {"kind": "additive", "direction": "both"},
        {"kind": "multiplicative", "direction": "both", "path": "direct"},
        {"kind": "multiplicative", "direction": "appearance_to_motion"},
        {"kind": "additive", "stages": (2, 4)},
        {"kind": "multiplicative", "stages": ()},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_follows_the_equations(connection: dict[str, Any], filters: str, style: str) -> None:
    net = two_streams(
        style=style,
        connection=Connection(**connection),
        temporal_filters=TemporalFilters(filters),
    )
    check(net, clips(height=59, width=70), **connection)


@torch.no_grad()
@pytest.mark.parametrize(
    ("depth", "motion_depth", "filters"),
    [(50, 152, "inflated"), (26, 101, "inserted"), (18, 34, "inserted"), (34, 34, "none")],
)
def test_depths(depth: int, motion_depth: int, filters: str) -> None:
    net = two_streams(
        depth,
        motion_depth,
        connection=Connection("multiplicative"),
        temporal_filters=TemporalFilters(filters),
    )
    check(net, clips(), kind="multiplicative")


@torch.no_grad()
def test_the_shortcut_is_not_fused_and_the_residual_branch_sees_what_is_before_the_relu() -> None:
    """Watch what block 1 gets, beside the sums of block 0."""
    net, seen = two_streams(), {}

    def watch(stream: str, block: int) -> Any:
        def hook(_: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
            seen[stream, block] = (*inputs[:2], output)

        return hook

    for stream in ("appearance", "motion"):
        for block in (0, 1):
            blocks = net.get_submodule(stream).get_submodule("layer2")
            blocks.get_submodule(str(block)).register_forward_hook(watch(stream, block))
    net(*clips())
    x_a, x_m = seen["appearance", 0][2], seen["motion", 0][2]
    shortcut, branch, _ = seen["appearance", 1]
    assert (x_a < 0).any()
    assert (x_m < 0).any()
    assert torch.equal(shortcut, x_a.clamp(min=0))
    assert torch.equal(branch, x_a + x_m.clamp(min=0))
    assert all(torch.equal(x, x_m.clamp(min=0)) for x in seen["motion", 1][:2])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize(
    ("frames", "size", "stride", "steps"), [(11, 5, 2, 4), (5, 5, 1, 1), (6, 5, 1, 2)]
)
def test_temporal_pool(frames: int, size: int, stride: int, steps: int, kind: str) -> None:
    net, batch = two_streams(temporal_pool=TemporalPool(size, stride, kind)), clips(frames)
    assert [tuple(stream.shape) for stream in net(*batch)] == [(2, steps, CLASSES)] * 2
    check(net, batch, temporal_pool=(kind, size, stride))


KNOWS = {"motion_to_appearance": (True, False), "appearance_to_motion": (False, True)}


@pytest.mark.slow
@pytest.mark.parametrize("path", ["residual", "direct"])
@pytest.mark.parametrize("kind", ["none", "additive", "multiplicative"])
@pytest.mark.parametrize("direction", ["motion_to_appearance", "appearance_to_motion", "both"])
def test_what_each_classifier_knows(kind: str, direction: str, path: str) -> None:
    """A classifier changes with the other stream's input exactly if a connection leads to it."""
    net = two_streams(connection=Connection(kind, path, direction))
    (rgb, flow), (other_rgb, other_flow) = clips(), clips()
    appearance, motion = net(rgb, flow)
    to_appearance, to_motion = KNOWS.get(direction, (True, True)) if kind != "none" else (0, 0)
    assert torch.equal(net(rgb, other_flow)[0], appearance) != to_appearance
    assert torch.equal(net(other_rgb, flow)[1], motion) != to_motion


@pytest.mark.parametrize("kind", ["none", "additive", "multiplicative"])
def test_what_each_loss_reaches(kind: str) -> None:
    net = two_streams(connection=Connection(kind))
    appearance, motion = net(*clips())

    def reached(logits: Tensor) -> set[str]:
        net.zero_grad()
        logits.sum().backward(retain_graph=True)
        grads = {name: parameter.grad for name, parameter in net.named_parameters()}
        return {name for name, grad in grads.items() if grad is not None and grad.any()}

    of = {
        stream: {name for name, _ in net.named_parameters() if name.startswith(stream)}
        for stream in ("appearance", "motion")
    }
    # After the last connection, motion has a block 1 and a classifier of its own.
    own = {name for name in of["motion"] if name.startswith(("motion.layer4.1.", "motion.fc."))}
    shared = set() if kind == "none" else of["motion"] - own
    assert reached(motion) == of["motion"]
    assert reached(appearance) == of["appearance"] | shared


@torch.no_grad()
def test_without_connection_and_temporal_filters_the_streams_run_alone() -> None:
    net = two_streams(connection=Connection("none"), temporal_filters=NO_FILTERS)
    rgb, flow = clips()
    assert_close(net(rgb, flow), (net.appearance(rgb), net.motion(flow)))


def plain_state(*streams: torch.nn.Module) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": tensor
        for prefix, stream in zip(("appearance", "motion"), streams, strict=True)
        for name, tensor in deepcopy(stream.state_dict()).items()
    }


@pytest.mark.parametrize(
    ("init", "kernel"),
    [("average", (1 / 3, 1 / 3, 1 / 3)), ("identity", (0, 1, 0)), ("difference", (-1, 3, -1))],
)
def test_converted_filters_are_the_1x1_ones_spread_over_time(
    init: str, kernel: tuple[float, float, float]
) -> None:
    streams = appearance_stream(CLASSES, 50, 4), motion_stream(CLASSES, STACK, 50, 4)
    before = plain_state(*streams)
    after = TwoStreamResNet(
        *streams, temporal_filters=TemporalFilters("inflated", init)
    ).state_dict()
    assert list(after) == list(before)
    assert {name for name, tensor in after.items() if tensor.ndim == 5} == INFLATED
    for name, tensor in after.items():
        if name in INFLATED:
            expected = torch.stack([before[name] * tap for tap in kernel], 2)
            assert_close(tensor, expected)
        else:
            assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("stream", ["appearance", "motion"])
def test_injected_filters_are_new_and_in_the_streams_that_are_named(stream: str) -> None:
    streams = appearance_stream(CLASSES, 50, 4), motion_stream(CLASSES, STACK, 50, 4)
    before = plain_state(*streams)
    filters = TemporalFilters("inserted", "difference", [stream])
    after = TwoStreamResNet(*streams, temporal_filters=filters).state_dict()
    new = {
        f"{stream}.layer{stage}.1.temporal.{kind}"
        for stage in (1, 2, 3, 4)
        for kind in ("weight", "bias")
    }
    assert set(after) == set(before) | new
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    for stage in (1, 2, 3, 4):
        width = 4 * 2 ** (stage - 1)
        name = f"{stream}.layer{stage}.1.temporal"
        assert after[f"{name}.weight"].shape == (width, width, 3, 1, 1)
        for tap, value in enumerate((-1, 3, -1)):
            assert torch.equal(after[f"{name}.weight"][:, :, tap, 0, 0], value * torch.eye(width))
        assert not after[f"{name}.bias"].any()


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "init", "reach"),
    [
        ("inflated", "average", 8),
        ("inserted", "average", 4),
        ("inserted", "difference", 4),
        ("inserted", "identity", 0),
        ("inflated", "identity", 0),
    ],
)
def test_a_still_clip_far_from_its_ends_looks_as_without_temporal_filters(
    kind: str, init: str, reach: int
) -> None:
    """The kernel sum to one; `reach` filters in a row carry the zeros beyond the ends inwards."""
    plain = two_streams(temporal_filters=NO_FILTERS)
    grown = TwoStreamResNet(
        deepcopy(plain.appearance),
        deepcopy(plain.motion),
        temporal_filters=TemporalFilters(kind, init),
    )
    grown.double().eval()
    still = [clip.expand(-1, -1, 19, -1, -1) for clip in clips(1, 32, 32)]
    for expected, logits in zip(plain(*still), grown(*still), strict=True):
        inner = slice(reach, 19 - reach)
        assert_close(logits[:, inner], expected[:, inner], rtol=1e-5, atol=1e-5)
        if reach:
            ends = (logits - expected)[:, [reach - 1, -reach]]
            assert ends.abs().amax((0, 2)).min() > 1e-6


@torch.no_grad()
def test_a_stream_alone_may_have_temporal_filters() -> None:
    plain = appearance_stream(CLASSES, 26, 4)
    randomise(plain)
    averaging = deepcopy(plain)
    TemporalFilters("inflated", "average").grow(averaging)
    averaging.double()
    still = clips(1, 32, 32)[0].expand(-1, -1, 19, -1, -1)
    assert_close(averaging(still)[:, 9], plain(still)[:, 9], rtol=1e-5, atol=1e-5)
    assert (averaging(still) - plain(still)).abs().max() > 1e-4


def test_checkpointing_changes_memory_alone() -> None:
    """Outputs, gradients and running statistics, in training mode, are those without it."""
    plain, batch = two_streams(width=8), clips(height=32, width=32)
    saving = two_streams(width=8, gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    held = [train_once(net.train(), batch) for net in (plain, saving)]
    assert held[1] < held[0] / 2
    theirs = saving.state_dict()
    for name, tensor in plain.state_dict().items():
        assert_close(theirs[name], tensor)
    for ours, other in zip(saving.parameters(), plain.parameters(), strict=True):
        assert_close(ours.grad, other.grad)


def train_once(net: TwoStreamResNet, batch: tuple[Tensor, Tensor]) -> int:
    """Forward and backward; the number of values that were kept between."""
    held = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = net(*batch)
    torch.stack([x.square().sum() for x in logits]).sum().backward()
    return held


def test_dropout_replaces_that_of_the_streams() -> None:
    motion = motion_stream(CLASSES, STACK, 26, 4, dropout=0.8)
    net = TwoStreamResNet(appearance_stream(CLASSES, 26, 4), motion, dropout=0.5)
    assert net.appearance.dropout.p == net.motion.dropout.p == 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Connection("direct"), "connection.kind=direct: choose from none, additive, mult"),
        (lambda: Connection(path="both"), "connection.path=both: choose from residual, direct"),
        (lambda: Connection(direction="up"), "connection.direction=up: choose from motion_to_app"),
        (lambda: Connection(stages=[0, 1]), "connection.stages=0: choose from 1, 2, 3, 4"),
        (lambda: Connection(stages=[1, 1]), r"connection.stages=\[1, 1\]: has a value twice"),
        (lambda: TemporalFilters("new"), "temporal_filters.kind=new: choose from none, inflated"),
        (lambda: TemporalFilters(init="x"), "temporal_filters.init=x: choose from average"),
        (lambda: TemporalFilters(streams="motion"), r"needs a list, \[motion\]"),
        (lambda: TemporalPool(5, 1, "sum"), "temporal_pool.kind=sum: choose from max, avg"),
        (lambda: TemporalPool(0, 1), "temporal_pool: size 0"),
        (lambda: two_streams(18), "needs 1x1 convolutions, which ResNet-18 does not have"),
        (
            lambda: two_streams(18, 50, temporal_filters=NO_FILTERS),
            r"stage 1 .* not 4 channels of appearance \(ResNet-18\) and 16 of motion \(ResNet-50\)",
        ),
    ],
)
def test_wrong_combinations_are_refused_when_the_net_is_built(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@torch.no_grad()
def test_streams_of_any_width_may_stay_apart() -> None:
    net = TwoStreamResNet(
        appearance_stream(CLASSES, 18, 4),
        motion_stream(CLASSES, STACK, 50, 8),
        Connection("none"),
        NO_FILTERS,
    )
    randomise(net)
    check(net, clips(), kind="none")


def test_a_clip_shorter_than_the_pool_is_refused() -> None:
    net = two_streams(temporal_pool=TemporalPool(5, 2))
    with pytest.raises(ValueError, match="4 frames is shorter than the temporal pool of 5"):
        net(*clips(4, 32, 32))


@pytest.mark.parametrize("shape", [(2, 4, 3, 64, 64), (1, 4, 5, 64, 64)])
def test_streams_of_different_clips_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not of the same clips"):
        two_streams()(torch.zeros(2, 3, 5, 64, 64), torch.zeros(shape))
