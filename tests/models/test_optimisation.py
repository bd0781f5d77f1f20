import math

import pytest
import torch

from src.models.optimisation import parameter_groups
from src.models.resnet import appearance_stream, motion_stream
from src.models.schedules import PiecewiseConstant, WarmupCosine
from src.models.two_stream import TwoStreamResNet


@pytest.fixture
def net() -> TwoStreamResNet:
    return TwoStreamResNet(appearance_stream(3, 26, 4), motion_stream(3, 2, 26, 4))


def kind(name: str) -> str:
    """What a parameter is by its name alone: filter, bias, bn_scale or bn_shift."""
    module, _, tensor = name.rpartition(".")
    if ".bn" in module or module.endswith("downsample.1"):
        return {"weight": "bn_scale", "bias": "bn_shift"}[tensor]
    return {"weight": "filter", "bias": "bias"}[tensor]


def test_every_parameter_is_in_one_group_with_its_factor(net: TwoStreamResNet) -> None:
    groups = parameter_groups(net)
    factors = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    published = {"filter": 1.0, "bias": 2.0, "bn_scale": 2.0, "bn_shift": 1.0}
    for name, parameter in net.named_parameters():
        assert factors[id(parameter)] == published[kind(name)], name


def test_only_filters_decay(net: TwoStreamResNet) -> None:
    optimizer = torch.optim.SGD(parameter_groups(net), momentum=0.9, weight_decay=0.5)
    for parameter in net.parameters():
        parameter.data.fill_(1.0)  # biases are 0 at first: nothing that could shrink
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        left = 0.5 if kind(name) == "filter" else 1.0  # 1 - lr * decay
        assert torch.equal(parameter, torch.full_like(parameter, left)), name


def test_piecewise_constant() -> None:
    schedule = PiecewiseConstant([(1e-2, 2), (1e-3, 1), (1e-4, 3)])
    assert schedule.epochs == 6
    expected = {0: 1e-2, 1.999: 1e-2, 2: 1e-3, 2.999: 1e-3, 3: 1e-4, 5.999: 1e-4, 6: 1e-4}
    assert {progress: schedule(progress) for progress in expected} == expected


def test_warmup_cosine() -> None:
    schedule = WarmupCosine(lr=0.1, epochs=10, warmup=0.2)
    assert schedule.epochs == 10
    quarter = 0.05 * (1 + math.sqrt(0.5))
    expected = {0: 0.001, 0.5: 0.025, 1: 0.05, 2: 0.1, 4: quarter, 6: 0.05, 8: 0.1 - quarter, 10: 0}
    for progress, rate in expected.items():
        assert schedule(progress) == pytest.approx(rate, abs=1e-12), progress
    assert WarmupCosine(lr=0.1, epochs=10, warmup=0)(0) == 0.1
