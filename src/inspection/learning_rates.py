"""Learning rates before training: what the schedulers of an experiment will do."""

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from src.experiment.build import build_optimization
from src.experiment.config import StageConfig
from src.models.optimization import parameter_groups
from src.plotting.charts import COLORS
from src.training.trainer import epochs

UPDATES = 20  # of an epoch, as long as nobody has counted the videos
LOWEST = 1e-4  # of the highest rate, where a curve that ends at zero is cut off


@dataclass(frozen=True)
class StageRates:
    """The learning rates of one stage."""

    stage: str
    epochs: int  # that it takes
    progress: list[float]  # (N,) epochs done before each update, 0..epochs
    rates: dict[str, list[float]]  # (N,) of the kinds that share a rate, e.g. "weight, bn_bias"


def learning_rates(configs: Mapping[str, StageConfig], updates: int = UPDATES) -> list[StageRates]:
    """The rates of stages with so many updates an epoch, from the very schedulers of training."""
    return [stage_rates(config, updates) for config in configs.values()]


def stage_rates(config: StageConfig, updates: int) -> StageRates:
    """The rates of one stage, one for each update."""
    chosen = build_optimization(config, updates * config["max_epochs"])
    # one parameter of each kind
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    optimizer = chosen.optimizer(parameter_groups(net, chosen.lr, chosen.lr_multipliers))
    scheduler = chosen.lr_scheduler(optimizer) if chosen.lr_scheduler else None
    of_kind: dict[str, list[float]] = {group["name"]: [] for group in optimizer.param_groups}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps of the scheduler without the optimizer's
        for update in range(1, epochs(config) * updates + 1):
            for group in optimizer.param_groups:
                of_kind[group["name"]].append(group["lr"])
            if scheduler and (chosen.lr_interval == "step" or update % updates == 0):
                scheduler.step()
    alike = defaultdict(list)
    for kind, rates in of_kind.items():
        alike[tuple(rates)].append(kind)
    progress = [update / updates for update in range(epochs(config) * updates)]
    rates_of = {", ".join(kinds): list(rates) for rates, kinds in alike.items()}
    return StageRates(config["stage"], epochs(config), progress, rates_of)


def draw_learning_rates(stages: Sequence[StageRates]) -> Figure:
    """Draw the rates over the epochs of each stage, on one logarithmic scale."""
    figure = Figure(figsize=(1.0 + 2.4 * len(stages), 3.2))
    figure.set_layout_engine("constrained", wspace=0.06)
    panels = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    colors: dict[str, str] = {}
    for axes, stage in zip(panels, stages, strict=True):
        for kinds, rates in stage.rates.items():
            label = None if kinds in colors else kinds
            color = colors.setdefault(kinds, COLORS[len(colors) % len(COLORS)])
            axes.plot(stage.progress, rates, color=color, label=label)
        axes.set_xlim(0, stage.epochs)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_title(stage.stage, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
    every = [rate for stage in stages for rates in stage.rates.values() for rate in rates]
    lowest, highest = min(rate for rate in every if rate > 0), max(every)
    panels[0].set_yscale("log", nonpositive="mask")
    panels[0].set_ylim(max(lowest, highest * LOWEST) / 1.5, highest * 1.5)
    panels[0].set_ylabel("learning rate")
    figure.supxlabel("epochs", fontsize=10)
    figure.legend(loc="outside upper center", ncols=len(colors), frameon=False, fontsize=9)
    return figure
