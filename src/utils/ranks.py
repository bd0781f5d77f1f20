"""What the ranks of a distributed run know together."""

import contextlib
from typing import TypeVar

import torch
from pytorch_lightning.utilities import rank_zero_only

T = TypeVar("T")


def own_rank() -> int:
    """The number of this process, from 0, as Lightning knows it from its trainer on."""
    return getattr(rank_zero_only, "rank", 0)


def of_all_ranks(value: T) -> list[T]:
    """The value of every rank, on every rank; all of them must ask."""
    if not torch.distributed.is_initialized():
        return [value]
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def of_first_rank(value: T) -> T:
    """The first rank's value, on every rank: what may change while it is looked at, as files do."""
    return of_all_ranks(value)[0]


def leave_group() -> None:
    """End this process's group, if it is in one; all ranks must do so.

    Threads of a group that is left to the end of the interpreter may abort the process: they still
    hold tensors of the last collective (pytorch#190489).
    """
    if torch.distributed.is_initialized():
        with contextlib.suppress(RuntimeError):  # another rank has failed since
            torch.distributed.barrier()
        torch.distributed.destroy_process_group()
