"""TwoStreamResNet against a naive reading of the papers' equations, and what follows from them."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import relu as f
from torch.testing import assert_close

from src.models.resnet import appearance_stream, motion_stream
from src.models.two_stream import TwoStreamResNet
from tests.helpers import randomise

State = dict[str, Tensor]
CLASSES, STACK = 5, 2
CONVERTED = {
    f"{stream}.layer{stage}.1.conv{conv}.weight"
    for stream in ("appearance", "motion")
    for stage in (1, 2, 3, 4)
    for conv in (1, 3)
}


# The reference: clips stay (B, C, T, H, W), a 4-D filter sees frame by frame, a 5-D one sees time.


def conv(w: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = w[f"{name}.weight"]
    if weight.ndim == 5:
        return F.conv3d(x, weight, padding=(1, 0, 0))
    side = weight.shape[-1]
    frames = [F.conv2d(frame, weight, None, stride, side // 2) for frame in x.unbind(2)]
    return torch.stack(frames, 2)


def norm(w: State, name: str, x: Tensor) -> Tensor:
    statistics = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, *statistics, w[f"{name}.weight"], w[f"{name}.bias"])


def branch(w: State, unit: str, x: Tensor, stride: int = 1) -> Tensor:
    x = f(norm(w, f"{unit}.bn1", conv(w, f"{unit}.conv1", x)))
    x = f(norm(w, f"{unit}.bn2", conv(w, f"{unit}.conv2", x, stride)))
    return norm(w, f"{unit}.bn3", conv(w, f"{unit}.conv3", x))


def unit_a(w: State, unit: str, x: Tensor, stride: int) -> Tensor:
    projected = norm(w, f"{unit}.downsample.1", conv(w, f"{unit}.downsample.0", x, stride))
    return projected + branch(w, unit, x, stride)


def later_units(w: State, stage: str, x: Tensor) -> Tensor:
    number = 2
    while f"{stage}.{number}.conv1.weight" in w:
        x = f(x + branch(w, f"{stage}.{number}", x))
        number += 1
    return x


def stem(w: State, stream: str, x: Tensor) -> Tensor:
    x = f(norm(w, f"{stream}.bn1", conv(w, f"{stream}.conv1", x, stride=2)))
    return torch.stack([F.max_pool2d(frame, 3, 2, 1) for frame in x.unbind(2)], 2)


def classify(w: State, stream: str, x: Tensor, pool: tuple[int, int] | None) -> Tensor:
    if pool:
        size, stride = pool
        starts = range(0, x.shape[2] - size + 1, stride)
        x = torch.stack([x[:, :, start : start + size].amax(2) for start in starts], 2)
    features = x.mean((-2, -1)).transpose(1, 2)  # (B, T', C); small images: one global pool
    return F.linear(features, w[f"{stream}.fc.weight"], w[f"{stream}.fc.bias"])


def reference(
    net: TwoStreamResNet,
    rgb: Tensor,
    flow: Tensor,
    connection: str,
    positions: bool = True,
    temporal_pool: tuple[int, int] | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    w = dict(net.state_dict())
    a, m = stem(w, "appearance", rgb), stem(w, "motion", flow)
    for stage in (1, 2, 3, 4):
        stage_a, stage_m, stride = f"appearance.layer{stage}", f"motion.layer{stage}", min(stage, 2)
        x_a, x_m = unit_a(w, f"{stage_a}.0", a, stride), unit_a(w, f"{stage_m}.0", m, stride)
        signal = f(x_m) if positions else f(x_m).mean((-2, -1), keepdim=True)
        fused = {"none": f(x_a), "additive": x_a + signal, "multiplicative": x_a * signal}
        a = f(f(x_a) + branch(w, f"{stage_a}.1", fused[connection]))
        m = f(f(x_m) + branch(w, f"{stage_m}.1", f(x_m)))
        a, m = later_units(w, stage_a, a), later_units(w, stage_m, m)
    return (
        classify(w, "appearance", a, temporal_pool),
        classify(w, "motion", m, temporal_pool),
    )


def two_streams(
    depth: int = 26, motion_depth: int | None = None, width: int = 4, **options: Any
) -> TwoStreamResNet:
    net = TwoStreamResNet(
        appearance_stream(CLASSES, depth, width),
        motion_stream(CLASSES, STACK, motion_depth or depth, width),
        **options,
    )
    randomise(net)
    return net


def clips(frames: int = 3, height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    size = (frames, height, width)
    rgb, flow = torch.randn(2, 3, *size), torch.randn(2, 2 * STACK, *size)
    return rgb.double(), flow.double()


@torch.no_grad()
@pytest.mark.parametrize("temporal_filters", ["none", "converted"])
@pytest.mark.parametrize(
    ("connection", "positions"),
    [
        ("none", True),
        ("additive", True),
        ("additive", False),
        ("multiplicative", True),
        ("multiplicative", False),
    ],
)
def test_follows_the_equations(connection: str, positions: bool, temporal_filters: str) -> None:
    options: dict[str, Any] = {"connection": connection, "positions": positions}
    net = two_streams(50, **options, temporal_filters=temporal_filters)
    batch = clips()
    assert_close(net(*batch), reference(net, *batch, **options))


@torch.no_grad()
def test_streams_may_differ_in_depth() -> None:
    net = two_streams(26, motion_depth=101, width=8, connection="multiplicative")
    batch = clips()
    assert_close(net(*batch), reference(net, *batch, "multiplicative"))


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "pool", "steps"), [(11, (5, 2), 4), (5, (5, 1), 1), (6, (5, 1), 2)]
)
def test_temporal_pool(frames: int, pool: tuple[int, int], steps: int) -> None:
    net, batch = two_streams(temporal_pool=pool), clips(frames)
    logits = net(*batch)
    assert [tuple(stream.shape) for stream in logits] == [(2, steps, CLASSES)] * 2
    assert_close(logits, reference(net, *batch, "additive", temporal_pool=pool))


@pytest.mark.parametrize("connection", ["none", "additive", "multiplicative"])
def test_what_each_classifier_knows(connection: str) -> None:
    net = two_streams(connection=connection)
    (rgb, flow), (other_rgb, other_flow) = clips(), clips()
    appearance, motion = net(rgb, flow)
    assert torch.equal(net(other_rgb, flow)[1], motion)
    assert torch.equal(net(rgb, other_flow)[0], appearance) == (connection == "none")

    def reached(logits: Tensor) -> set[str]:
        net.zero_grad()
        logits.sum().backward(retain_graph=True)
        grads = {name: parameter.grad for name, parameter in net.named_parameters()}
        return {name for name, grad in grads.items() if grad is not None and grad.any()}

    of = {
        stream: {name for name, _ in net.named_parameters() if name.startswith(stream)}
        for stream in ("appearance", "motion")
    }
    # After the last connection, motion has a unit b and a classifier of its own.
    own = {name for name in of["motion"] if name.startswith(("motion.layer4.1.", "motion.fc."))}
    shared = set() if connection == "none" else of["motion"] - own
    assert reached(motion) == of["motion"]
    assert reached(appearance) == of["appearance"] | shared


@torch.no_grad()
def test_without_connection_and_temporal_filters_the_streams_run_alone() -> None:
    net = two_streams(connection="none", temporal_filters="none")
    rgb, flow = clips()
    assert_close(net(rgb, flow), (net.appearance(rgb), net.motion(flow)))


def test_state_dict_is_that_of_the_streams_with_their_filters_grown() -> None:
    appearance = appearance_stream(CLASSES, 50, 4)
    motion = motion_stream(CLASSES, STACK, 50, 4)
    before = {
        f"{prefix}.{name}": tensor
        for prefix, stream in (("appearance", appearance), ("motion", motion))
        for name, tensor in deepcopy(stream.state_dict()).items()
    }
    after = TwoStreamResNet(appearance, motion, temporal_filters="converted").state_dict()
    assert list(after) == list(before)
    assert {name for name, tensor in after.items() if tensor.ndim == 5} == CONVERTED
    for name, tensor in after.items():
        if name in CONVERTED:
            assert tensor.shape[2:] == (3, 1, 1)
            assert_close(tensor.sum(2), before[name])
            assert_close(tensor.amax(2), tensor.amin(2))  # the same in each tap
        else:
            assert torch.equal(tensor, before[name])


@torch.no_grad()
def test_a_still_clip_far_from_its_ends_looks_as_without_temporal_filters() -> None:
    plain = two_streams(temporal_filters="none")
    converted = TwoStreamResNet(
        deepcopy(plain.appearance), deepcopy(plain.motion), temporal_filters="converted"
    )
    converted.double().eval()
    still = [clip.expand(-1, -1, 19, -1, -1) for clip in clips(1, 32, 32)]
    for expected, logits in zip(plain(*still), converted(*still), strict=True):
        # 4 stages of 2 filters: the zeros beyond the ends reach 8 frames far.
        assert_close(logits[:, 8:-8], expected[:, 8:-8], rtol=1e-5, atol=1e-5)
        assert (logits - expected)[:, [7, -8]].abs().amax((0, 2)).min() > 1e-4


def test_dropout_replaces_that_of_the_streams() -> None:
    motion = motion_stream(CLASSES, STACK, 26, 4, dropout=0.8)
    net = TwoStreamResNet(appearance_stream(CLASSES, 26, 4), motion, dropout=0.5)
    assert net.appearance.dropout.p == net.motion.dropout.p == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"connection": "direct"}, "'direct': choose from none, additive, multiplicative"),
        ({"temporal_filters": "new"}, "'new': choose from none, converted"),
    ],
)
def test_unknown_choices_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_streams(**options)


def test_only_unconnected_streams_may_differ_in_width() -> None:
    def build(connection: str) -> TwoStreamResNet:
        narrow, wide = appearance_stream(CLASSES, 26, 4), motion_stream(CLASSES, STACK, 26, 8)
        return TwoStreamResNet(narrow, wide, connection)

    build("none")
    with pytest.raises(ValueError, match="equal width, not 4 and 8"):
        build("additive")


def test_a_clip_shorter_than_the_pool_is_refused() -> None:
    net = two_streams(temporal_pool=(5, 2))
    with pytest.raises(ValueError, match="4 frames is shorter than the temporal pool of 5"):
        net(*clips(4, 32, 32))
