"""How machines share the videos of a dataset, and processes the devices of a machine."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

from src.flow.settings import FlowSettings
from src.utils.errors import UserError
from src.utils.processes import usable_cores
from src.utils.values import NULL, check_values, integer

_VARIABLES = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The part `index` (from 1) of `count` parts.

    Raises:
        UserError: there is no such part.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UserError(
                f"shard {self.index} of {self.count} does not exist: count from 1, as in shard=3/64"
            )

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `count`-th item, so that neighbors, which are alike, go to different parts."""
        return items[self.index - 1 :: self.count]

    def label(self, name: str) -> str:
        """What this part's own files are called: `name`, or for one of 64 `name`-03-of-64."""
        if self.count == 1:
            return name
        return f"{name}-{self.index:0{len(str(self.count))}d}-of-{self.count}"


def read_shard(value: object) -> Shard:
    """Understand the setting `shard`.

    Args:
        value: None for everything, a text such as 3/64, or slurm for this task of a job array
            without gaps.

    Raises:
        UserError: anything else, or slurm outside of a job array.
    """
    if value is None:
        return Shard()
    if value == "slurm":
        return _slurm()
    match = re.fullmatch(r"(\d+)/(\d+)", str(value))
    if not match:
        raise UserError(f"shard={value} is not a part: give one such as shard=3/64, or shard=slurm")
    return Shard(int(match[1]), int(match[2]))


def _slurm() -> Shard:
    hint = "start it with sbatch --array=1-64, or give shard=3/64"
    try:
        task, first, count = (int(os.environ[name]) for name in _VARIABLES)
    except (KeyError, ValueError) as error:
        raise UserError(f"shard=slurm without a job array ({error}): {hint}") from error
    if not 0 <= task - first < count:
        raise UserError(f"shard=slurm with gaps (task {task} of {count} from {first}): {hint}")
    return Shard(task - first + 1, count)


def worker_devices(
    settings: FlowSettings | None, device: str | None, workers: int | None
) -> list[str]:
    """The device of each worker, which tells their number, too.

    Args:
        settings: of the flow; OpenCV's algorithms run on the CPU. None without flow.
        device: such as cpu or cuda:1; cuda for all GPUs in turn; None for them if there are any.
        workers: processes; None for one per GPU, or one per core that this process may use.

    Raises:
        UserError: a wrong number, or a device for an algorithm that cannot run on it.
    """
    check_values({"workers": workers}, {"workers": integer(1) | NULL})
    if settings and not settings.uses_torch and device not in (None, "cpu"):
        raise UserError(
            f"flow algorithm {settings.algorithm} runs on the CPU only: leave out device={device}"
        )
    devices = [device or "cpu"]
    if settings and settings.uses_torch and device in (None, "cuda"):
        import torch  # here, because the algorithms of OpenCV do without

        devices = [f"cuda:{gpu}" for gpu in range(torch.cuda.device_count())] or devices
    if workers is None:
        workers = usable_cores() if devices == ["cpu"] else len(devices)
    return list(islice(cycle(devices), workers))
