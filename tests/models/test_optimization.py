import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from src.models.schedules import PiecewiseConstant, WarmupCosine

from src.models.optimization import LrMultipliers, parameter_groups
from src.models.resnet import appearance_stream, motion_stream
from src.models.two_stream import TwoStreamResNet

PUBLISHED = {"filter": 1.0, "bias": 2.0, "bn_scale": 2.0, "bn_shift": 1.0}


@pytest.fixture
def net() -> TwoStreamResNet:
    return TwoStreamResNet(appearance_stream(3, 26, 4), motion_stream(3, 2, 26, 4))


def kind(name: str) -> str:
    """What a parameter is by its name alone: filter, bias, bn_scale or bn_shift."""
    module, _, tensor = name.rpartition(".")
    if ".bn" in module or module.endswith("downsample.1"):
        return {"weight": "bn_scale", "bias": "bn_shift"}[tensor]
    return {"weight": "filter", "bias": "bias"}[tensor]


@pytest.mark.parametrize("expected", [PUBLISHED, dict.fromkeys(PUBLISHED, 1.0)])
def test_every_parameter_is_in_one_group_with_its_factor(
    net: TwoStreamResNet, expected: dict[str, float]
) -> None:
    groups = parameter_groups(net, LrMultipliers(**expected))
    factors = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        assert factors[id(parameter)] == expected[kind(name)], name


@pytest.mark.parametrize(
    "make",
    [partial(torch.optim.SGD, momentum=0.9), torch.optim.AdamW],
    ids=["SGD", "AdamW"],
)
def test_only_filters_decay(net: TwoStreamResNet, make: Callable[..., Any]) -> None:
    optimizer = make(parameter_groups(net), weight_decay=0.5)
    for parameter in net.parameters():
        parameter.data.fill_(1.0)  # biases are 0 at first: nothing that could shrink
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        left = 0.5 if kind(name) == "filter" else 1.0  # 1 - lr * decay
        assert torch.equal(parameter, torch.full_like(parameter, left)), name
    temporal = [p for p in net.parameters() if p.ndim == 5]
    assert len(temporal) == 16  # two in unit b of each stage of each stream
    assert all(torch.equal(p, torch.full_like(p, 0.5)) for p in temporal)


@pytest.mark.parametrize("factor", [-1.0, math.nan])
def test_impossible_factors_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"optimizer\.factors\.bias=.*needs a number from 0"):
        LrMultipliers(bias=factor)


def test_adamw_by_hand() -> None:
    """Two updates of a linear layer, its bias at twice the rate and without decay."""
    layer = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(layer.weight, 2.0)
    torch.nn.init.constant_(layer.bias, 2.0)
    optimizer = torch.optim.AdamW(
        parameter_groups(layer, LrMultipliers(bias=2.0)), weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (0.1, 0.01)[min(step, 1)])
    expected = {"weight": 2.0, "bias": 2.0}
    first = second = 0.0
    for step, (rate, gradient) in enumerate([(0.1, 4.0), (0.01, -1.0)], start=1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        move = (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
        expected["weight"] += -rate * 0.1 * expected["weight"] - rate * move
        expected["bias"] -= 2 * rate * move
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        schedule.step()
    found = {name: parameter.item() for name, parameter in layer.named_parameters()}
    assert found == pytest.approx(expected, rel=1e-5)


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


def test_the_highest_rate() -> None:
    assert PiecewiseConstant([(1e-3, 2), (1e-2, 1)]).lr == 1e-2


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule\.warmup=1: needs a share"):
        WarmupCosine(lr=0.1, epochs=10, warmup=1)
    with pytest.raises(ValueError, match=r"schedule\.epochs=0"):
        WarmupCosine(lr=0.1, epochs=0)
    for phases in ([], [(0.1, 0)]):
        with pytest.raises(ValueError, match="phases="):
            PiecewiseConstant(phases)
