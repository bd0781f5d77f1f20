"""Learning rates as plain functions of the progress through training, in passes (epochs)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A learning rate for every point of a training of `epochs` passes."""

    @property
    def epochs(self) -> int:
        """Passes over the train list."""
        ...

    @property
    def lr(self) -> float:
        """The highest learning rate."""
        ...

    def __call__(self, progress: float) -> float:
        """Learning rate after `progress` passes, 0 <= progress <= epochs."""
        ...


@dataclass(frozen=True)
class PiecewiseConstant:
    """Constant learning rates, one after the other: the papers' schedule.

    Args:
        phases: (learning rate, passes) pairs in order.
    """

    phases: Sequence[tuple[float, int]]

    def __post_init__(self) -> None:
        phases = [(float(rate), int(epochs)) for rate, epochs in self.phases]
        if not phases or any(epochs < 1 for _, epochs in phases):
            raise ValueError(
                f"phases={list(self.phases)}: needs [learning rate, passes], passes from 1"
            )
        object.__setattr__(self, "phases", phases)  # YAML reads 1e-3 as a text

    @property
    def epochs(self) -> int:
        """Passes over the train list."""
        return sum(epochs for _, epochs in self.phases)

    @property
    def lr(self) -> float:
        """The highest learning rate."""
        return max(rate for rate, _ in self.phases)

    def __call__(self, progress: float) -> float:
        """Learning rate after `progress` passes."""
        end = 0
        for rate, epochs in self.phases:
            end += epochs
            if progress < end:
                return rate
        return self.phases[-1][0]


@dataclass(frozen=True)
class WarmupCosine:
    """A linear rise over the first part, then half a cosine down to zero.

    Args:
        lr: the highest learning rate.
        epochs: passes over the train list.
        warmup: the share of all passes that the rise takes.
    """

    lr: float
    epochs: int
    warmup: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"schedule.warmup={self.warmup}: needs a share from 0, below 1")
        if self.epochs < 1:
            raise ValueError(f"schedule.epochs={self.epochs}: needs at least one pass")

    def __call__(self, progress: float) -> float:
        """Learning rate after `progress` passes."""
        done = min(progress / self.epochs, 1.0)
        if done < self.warmup:
            # a first step at exactly zero would be wasted
            return self.lr * max(done / self.warmup, 0.01)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))
