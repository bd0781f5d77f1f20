"""What the ranks of a distributed run know together."""

from typing import TypeVar

import torch

T = TypeVar("T")


def of_all_ranks(value: T) -> list[T]:
    """The value of every rank, on every rank; all of them must ask."""
    if not torch.distributed.is_initialized():
        return [value]
    values = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
