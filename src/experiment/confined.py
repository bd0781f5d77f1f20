"""What data that are rebuilt from a checkpoint may take of a machine.

Somebody else may have written its config: where data are read is theirs to say, but nothing is made
or written for it, and processes and memory are this machine's to give.
"""

import math
from collections.abc import Mapping
from inspect import signature
from typing import Any

from hydra.utils import get_object

from src.utils.errors import UserError

LARGEST_TEST = 8 * 2**30  # bytes of the videos that are tested at a time


def confined(data: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's data config that makes nothing and keeps no indices.

    A reader that can make its data says so by an argument `make`. Workers are as many as there are
    cores, up to 8; the command line may change all of it.
    """
    dataset = dict(data["dataset"])
    if "make" in signature(get_object(dataset["_target_"])).parameters:
        dataset["make"] = False
    return {
        **data,
        "dataset": dataset,
        "loader": {**data["loader"], "num_workers": None, "prefetch_factor": 2},
        "videos": {**data["videos"], "cache_dir": None},
    }


def check_memory(data: Mapping[str, Any], source: str) -> None:
    """Refuse a test that takes more than 8 GiB for its videos; numbers that are none are let pass.

    Raises:
        UserError: names the numbers.
    """
    test = data["test"]
    channels = 3 * ("rgb" in data["modalities"]) + 2 * ("flow" in data["modalities"]) * _size(
        data["flow_stack"]
    )
    numbers = {
        "data.test.batch_size": test["batch_size"],
        "data.test.frames": test["frames"],
        "data.short_side": data["short_side"],
    }
    batch, frames, side = map(_size, numbers.values())
    needed = channels * batch * frames * side**2 * 4 / 3  # of the usual aspect
    if needed > LARGEST_TEST:
        asked = ", ".join(f"{name}={value}" for name, value in numbers.items())
        raise UserError(
            f"{source} asks for {needed / 2**30:,.0f} GiB of videos at a time ({asked}): "
            "give a smaller one, such as +data.test.batch_size=1"
        )


def _size(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
