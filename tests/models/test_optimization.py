"""Parameter groups and learning rates, against the papers' tables and torch's formulas."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR

from src.experiment.build import build_optimization
from src.experiment.compose import CONF_DIR
from src.experiment.config import stage_config, stage_configs
from src.inspection.learning_rates import stage_rates
from src.models.optimization import LrMultipliers, parameter_groups, warmup_cosine
from src.models.resnet import appearance_stream, motion_stream
from src.models.two_stream import TwoStreamResNet
from src.training.checks import module_without_data
from src.utils.errors import UserError
from tests.conftest import compose_config

PUBLISHED = {"weight": 1.0, "bias": 2.0, "bn_weight": 2.0, "bn_bias": 1.0}

Phases = list[tuple[float, int]]  # learning rates and how many epochs each of them is kept

# Section 5 of the specification, by stage; HMDB51's appearance stream and ST-MulNet have their own.
PAPERS: dict[str, Phases] = {
    "appearance": [(1e-2, 20), (1e-3, 20), (1e-4, 20)],
    "motion": [(1e-2, 100), (1e-3, 100), (1e-4, 100), (1e-5, 100)],
    "joint": [(1e-3, 30), (1e-4, 30), (1e-5, 20)],
    "joint_pooled": [(1e-4, 1), (1e-5, 1)],
}
APPEARANCE_HMDB51: Phases = [(1e-2, 20), (1e-3, 10), (1e-4, 10)]
ST_MULTIPLIER: Phases = [(1e-3, 10), (1e-4, 5), (1e-5, 5), (1e-6, 5)]
# Of two_movers: highest rate and epochs.
SMALL = {
    "appearance": (0.05, 6),
    "motion": (0.05, 6),
    "joint": (0.05, 16),
    "joint_pooled": (0.005, 2),
}


@pytest.fixture
def net() -> TwoStreamResNet:
    return TwoStreamResNet(appearance_stream(3, 26, 4), motion_stream(3, 2, 26, 4))


def kind(name: str) -> str:
    """What a parameter is by its name alone: weight, bias, bn_weight or bn_bias."""
    module, _, tensor = name.rpartition(".")
    if ".bn" in module or module.endswith("downsample.1"):
        return f"bn_{tensor}"
    return tensor


@pytest.mark.parametrize("expected", [PUBLISHED, dict.fromkeys(PUBLISHED, 1.0)])
def test_every_parameter_is_in_one_group_with_its_rate(
    net: TwoStreamResNet, expected: dict[str, float]
) -> None:
    groups = parameter_groups(net, 0.5, LrMultipliers(**expected))
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        assert rates[id(parameter)] == 0.5 * expected[kind(name)], name


@pytest.mark.parametrize(
    "make",
    [partial(torch.optim.SGD, momentum=0.9), torch.optim.AdamW],
    ids=["SGD", "AdamW"],
)
def test_only_weights_of_convolutions_and_classifiers_decay(
    net: TwoStreamResNet, make: Callable[..., Any]
) -> None:
    optimizer = make(parameter_groups(net), weight_decay=0.5)
    for parameter in net.parameters():
        parameter.data.fill_(1.0)  # biases are 0 at first: nothing that could shrink
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        left = 0.5 if kind(name) == "weight" else 1.0  # 1 - lr * decay
        assert torch.equal(parameter, torch.full_like(parameter, left)), name
    temporal = [p for p in net.parameters() if p.ndim == 5]
    assert len(temporal) == 16  # two in block 1 of each stage of each stream
    assert all(torch.equal(p, torch.full_like(p, 0.5)) for p in temporal)


@pytest.mark.parametrize("factor", [-1.0, math.nan])
def test_impossible_multipliers_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"optimizer\.lr_multipliers\.bias=.*: needs a number"):
        LrMultipliers(bias=factor)


def test_adamw_by_hand() -> None:
    """Two updates of a linear layer, its bias at twice the rate and without decay."""
    layer = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(layer.weight, 2.0)
    torch.nn.init.constant_(layer.bias, 2.0)
    optimizer = torch.optim.AdamW(
        parameter_groups(layer, 0.1, LrMultipliers(bias=2.0)), weight_decay=0.1
    )
    scheduler = MultiStepLR(optimizer, milestones=[1], gamma=0.1)
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
        scheduler.step()
    found = {name: parameter.item() for name, parameter in layer.named_parameters()}
    assert found == pytest.approx(expected, rel=1e-5)


def warmed_up(update: int, updates: int, lr: float, warmup: float = 0.1) -> float:
    rise = round(warmup * updates)
    if update < rise:
        return lr * (0.01 + 0.99 * update / rise)
    return lr * (1 + math.cos(math.pi * (update - rise) / (updates - rise))) / 2


def expected_rates(experiment: str, stage: str, updates: int) -> list[float]:
    """Of the weights, at each update; an epoch has so many."""
    model, _, dataset = experiment.partition("_two_movers")[0].rpartition("_")
    if experiment.endswith("two_movers"):
        lr, epochs = SMALL[stage]
        return [warmed_up(k, epochs * updates, lr) for k in range(epochs * updates)]
    phases = PAPERS[stage]
    if stage == "appearance" and dataset in ("hmdb51", "folder"):
        phases = APPEARANCE_HMDB51
    if stage == "joint" and model == "st_multiplier":
        phases = ST_MULTIPLIER
    return [rate for rate, epochs in phases for _ in range(epochs * updates)]


EXPERIMENTS = sorted(file.stem for file in (CONF_DIR / "experiment").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_stage_has_the_rates_of_its_recipe(experiment: str, tmp_path: Path) -> None:
    for number, name in enumerate(["jump", "jump", "run", "run"]):  # its classes are counted
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{number}.mp4").touch()
    place = [f"data.dataset.root={tmp_path}"] if experiment.endswith("folder") else []
    configs = stage_configs(compose_config("train", f"experiment={experiment}", *place))
    for stage, config in configs.items():
        found = stage_rates(config, updates=5)
        weights = expected_rates(experiment, stage, updates=5)
        assert set(found.rates) == {"weight, bn_bias", "bias, bn_weight"}, stage
        assert found.rates["weight, bn_bias"] == pytest.approx(weights, abs=1e-12), stage
        twice = [2 * rate for rate in weights]
        assert found.rates["bias, bn_weight"] == pytest.approx(twice, abs=1e-12), stage


def rates_of(scheduler_of: Callable[[Any], Any], updates: int, lr: float = 0.1) -> Iterator[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = scheduler_of(optimizer)
    for _ in range(updates):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 0.99])
@pytest.mark.parametrize("total", [1, 2, 7, 40])
def test_warmup_cosine(total: int, warmup: float) -> None:
    """It ends at zero, and is not hurried or begun anew where rounding left no rise or no fall."""
    scheduler = partial(warmup_cosine, total_steps=total, warmup=warmup)
    rates = list(rates_of(scheduler, total))
    if round(warmup * total) < total:
        expected = [warmed_up(update, total, 0.1, warmup) for update in range(total)]
        assert rates == pytest.approx(expected, abs=1e-12)
    assert all(0 < rate <= 0.1 for rate in rates)


def test_warmup_cosine_by_hand() -> None:
    rates = list(rates_of(partial(warmup_cosine, total_steps=10, warmup=0.2), 11))
    expected = [0.001, 0.0505, 0.1, *(0.05 * (1 + math.cos(k * math.pi / 8)) for k in range(1, 9))]
    assert rates == pytest.approx(expected, abs=1e-12)
    assert rates[10] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("warmup", [1, -0.1])
def test_an_impossible_warmup_is_refused(warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match=rf"lr_scheduler\.warmup={warmup}: needs a share"):
        warmup_cosine(optimizer, 10, warmup)


def own_scheduler(scheduler: str) -> dict[str, list[float]]:
    """Rates of a stage of 3 epochs of 4 updates whose scheduler is given by `_target_`."""
    cfg = compose_config(
        "train",
        "experiment=appearance_hmdb51",
        "~stages.appearance.lr_scheduler",  # with its milestones
        f"+stages.appearance.lr_scheduler={{_partial_:true,_target_:{scheduler}}}",
        "stages.appearance.max_epochs=3",
        "stages.appearance.optimizer.lr=0.1",
    )
    return stage_rates(stage_config(cfg, "appearance"), updates=4).rates


def test_a_scheduler_of_torch_by_its_name() -> None:
    rates = own_scheduler("torch.optim.lr_scheduler.ExponentialLR,gamma:0.5")
    weights = [0.1] * 4 + [0.05] * 4 + [0.025] * 4
    assert rates["weight, bn_bias"] == pytest.approx(weights)
    assert rates["bias, bn_weight"] == pytest.approx([2 * rate for rate in weights])


def test_a_scheduler_of_updates_is_told_how_many_there_are() -> None:
    """OneCycleLR, as torch makes it: from max_lr / 25 up, then far down, all groups alike."""
    rates = own_scheduler("torch.optim.lr_scheduler.OneCycleLR,max_lr:0.5,total_steps:null")
    (alike,) = rates.values()
    assert alike[0] == pytest.approx(0.5 / 25)
    assert max(alike) == pytest.approx(0.5, rel=0.05)
    assert alike[-1] == pytest.approx(0.5 / 25 / 1e4)
    assert len(alike) == len(set(alike)) == 12


@pytest.mark.slow
@pytest.mark.parametrize("lr", ["-1", "inf", "nan", "true", "fast", "null"])
def test_an_impossible_learning_rate_is_refused(lr: str) -> None:
    cfg = compose_config("train", f"stages.joint.optimizer.lr={lr}")
    with pytest.raises(ValueError, match=r"optimizer\.lr=.*: needs a number from 0"):
        build_optimization(stage_config(cfg, "joint"), 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("stages.joint.lr_scheduler.warmup=1", r"lr_scheduler\.warmup=1: needs a share"),
        ("+stages.joint.optimizer.lr_multipliers.bias=-1", r"lr_multipliers\.bias=-1: needs"),
        ("+stages.joint.lr_scheduler.gamma=0.5", "unexpected keyword argument 'gamma'"),
        ("+stages.joint.optimizer.beta=0.5", "unexpected keyword argument 'beta'"),
        ("+stages.joint.optimizer.lr_multipliers.fc=1", "unexpected keyword argument 'fc'"),
    ],
)
def test_an_impossible_recipe_is_one_line(override: str, reason: str) -> None:
    cfg = compose_config("train", "model.backbone.width=4", override)
    with pytest.raises(UserError, match=f"^stage joint: .*{reason}"):
        module_without_data(stage_config(cfg, "joint"))
