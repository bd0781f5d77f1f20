"""Grad-CAM against CAM, which it is equal to before a linear classifier on a mean."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from src.inspection.grad_cam import HeatMaps, grad_cam
from src.models.connection import Connection
from src.models.modules import VideoClassifier
from src.models.resnet import ResNet
from src.models.temporal import TemporalPool
from tests.builders import FRAMES, NUM_CLASSES, SIDE, random_batch, random_module


def upscaled(maps: Tensor) -> Tensor:
    maps = F.interpolate(maps, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return maps / maps.amax((1, 2, 3), keepdim=True)


def class_activation(stream: ResNet, features: Tensor, classes: Tensor) -> Tensor:
    """CAM (Zhou et al. 2016): the classifier's weights on the features (B * T, C, h, w)."""
    features = features.unflatten(0, (len(classes), -1))  # (B, T, C, h, w)
    return upscaled(F.relu(torch.einsum("bc,btchw->bthw", stream.fc.weight[classes], features)))


def last_features(net: VideoClassifier, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output of each stream's layer4, (B * T, C, h, w)."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        kept[name] = output.detach()

    for name, part in net.net.named_modules():
        if name.endswith("layer4"):
            part.register_forward_hook(lambda _m, _i, output, name=name: keep(name, output))
    with torch.no_grad():
        net.logits(batch)
    return kept


def by_place(found: list[HeatMaps]) -> dict[tuple[str, str], Tensor]:
    return {(each.stream, each.classifier): each.maps for each in found}


@pytest.mark.parametrize(("kind", "stream"), [("rgb", "appearance"), ("flow", "motion")])
def test_a_stream_alone_is_explained_as_by_cam(kind: str, stream: str) -> None:
    net, batch, classes = random_module(kind), random_batch(), torch.tensor([2, 0])
    (found,) = grad_cam(net, batch, classes)
    assert (found.stream, found.classifier) == (stream, stream)
    assert isinstance(net.net, ResNet)
    expected = class_activation(net.net, last_features(net, batch)["layer4"], classes)
    assert_close(found.maps, expected)
    assert found.maps.shape == (2, FRAMES, SIDE, SIDE)
    assert found.maps.min() >= 0
    assert_close(found.maps.amax((1, 2, 3)), torch.ones(2).double())


@pytest.mark.parametrize("kind", ["additive", "multiplicative"])
def test_both_streams_of_a_joint_net_are_explained_as_by_cam(kind: str) -> None:
    net, batch = random_module("joint", Connection(kind)), random_batch()
    classes = torch.tensor([1, 2])
    maps = by_place(grad_cam(net, batch, classes))
    features = last_features(net, batch)
    for stream in ("appearance", "motion"):
        part = net.net.get_submodule(stream)
        assert isinstance(part, ResNet)
        expected = class_activation(part, features[f"{stream}.layer4"], classes)
        assert_close(maps[stream, stream], expected)
    assert ("motion", "appearance") in maps


def test_clips_of_a_batch_do_not_mix() -> None:
    net, batch, classes = random_module("joint"), random_batch(), torch.tensor([0, 2])
    together = by_place(grad_cam(net, batch, classes))
    alone = by_place(grad_cam(net, {name: x[1:] for name, x in batch.items()}, classes[1:]))
    for place, maps in together.items():
        assert_close(maps[1:], alone[place])


def test_the_class_is_what_the_whole_net_predicts() -> None:
    net, batch = random_module("joint"), random_batch()
    with torch.no_grad():
        logits = net.logits(batch)
    predicted = (logits["appearance"] + logits["motion"]).mean(1).argmax(1)
    found = grad_cam(net, batch)
    assert all(torch.equal(each.classes, predicted) for each in found)
    explained = by_place(grad_cam(net, batch, predicted))
    assert_close(by_place(found), explained)
    other = by_place(grad_cam(net, batch, (predicted + 1) % NUM_CLASSES))
    assert not torch.allclose(other["motion", "motion"], explained["motion", "motion"])


def test_motion_that_reaches_the_appearance_classifier_is_what_the_connection_lets_in() -> None:
    """The gradient of each channel as a finite difference."""
    net, batch = random_module("joint", Connection(stages=[1])), random_batch(1)
    classes = torch.tensor([1])
    block = net.net.get_submodule("motion.layer1.0")
    entered: list[Tensor] = []
    shifts: list[Tensor] = []

    def shift(_module: object, _inputs: object, output: Tensor) -> Tensor:
        entered.append(output.detach())
        return output + shifts[-1] if shifts else output

    maps = by_place(grad_cam(net, batch, classes))["motion", "appearance"]
    block.register_forward_hook(shift)

    def score() -> Tensor:
        with torch.no_grad():
            given = net.clips(batch)  # not `logits`, which are in float32
            return net.net(given["rgb"], given["flow"])[0].mean(1)[0, classes[0]]

    score()
    x_m, step = entered[0], 1e-6
    weights = torch.zeros(x_m.shape[1]).double()
    for channel in range(x_m.shape[1]):
        direction = torch.zeros_like(x_m)
        direction[:, channel] = step
        shifts.append(direction)
        up = score()
        shifts.append(-direction)
        weights[channel] = (up - score()) / (2 * step) / x_m[:, channel].numel()
    expected = F.relu(torch.einsum("c,tchw->thw", weights, F.relu(x_m)))
    assert_close(maps, upscaled(expected[None]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "connection", [Connection("none"), Connection(direction="appearance_to_motion")]
)
def test_without_a_way_in_no_motion_is_shown_to_reach_appearance(connection: Connection) -> None:
    assert set(by_place(grad_cam(random_module("joint", connection), random_batch()))) == {
        ("appearance", "appearance"),
        ("motion", "motion"),
    }


def test_temporal_pooling_leaves_a_map_for_every_frame() -> None:
    """The mean of a max pool's gradient over time still weights channels."""
    net = random_module("joint", temporal_pool=TemporalPool(2, 1))
    for each in grad_cam(net, random_batch()):
        assert each.maps.shape == (2, FRAMES, SIDE, SIDE)
        assert each.maps.isfinite().all()


def test_the_network_is_left_as_it_was() -> None:
    net, batch = random_module("joint").train(), random_batch()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    net.net.get_submodule("motion").eval()
    modes = [part.training for part in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    grad_cam(net, batch)
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(part._forward_hooks for part in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
