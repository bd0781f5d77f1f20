"""Learning rates before training: what the schedules of a config will do."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from src.models.build import build_factors, build_schedule
from src.training.plan import make_plan, stage_names
from src.training.trainer import passes

POINTS = 1001  # of a stage's curve


@dataclass(frozen=True)
class StageRates:
    """The learning rates of one stage.

    Args:
        stage: its name.
        passes: how many passes over the train list it takes.
        progress: (N,) passes done, 0..passes.
        rates: (N,) for the kinds of parameters that share a rate, e.g. "filter, bn_shift".
    """

    stage: str
    passes: int
    progress: list[float]
    rates: dict[str, list[float]]


def learning_rates(config: Mapping[str, Any]) -> list[StageRates]:
    """The rates of all chosen stages, from the very schedules that training follows.

    Args:
        config: resolved, see `src.training.plan.resolve`.
    """
    found = []
    for stage in stage_names(config):
        plan = make_plan(config, stage)
        schedule, end = build_schedule(plan), passes(plan)
        kinds = defaultdict(list)
        for kind, factor in asdict(build_factors(plan)).items():
            kinds[factor].append(kind)
        progress = np.linspace(0, end, POINTS).tolist()
        rates = [schedule(done) for done in progress]
        found.append(
            StageRates(
                stage,
                end,
                progress,
                {
                    ", ".join(names): [factor * rate for rate in rates]
                    for factor, names in kinds.items()
                },
            )
        )
    return found
