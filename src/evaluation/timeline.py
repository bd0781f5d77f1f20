"""Probabilities over the time of a video, in bounded memory."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

POINTS = 2000  # of a curve, more than a picture has columns
Curves = npt.NDArray[np.float32]


class Timeline:
    """Probabilities over time, thinned out when they become many: memory has an end."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._values: list[Curves] = []
        self._pending: list[tuple[float, Curves]] = []
        self._every = 1  # windows per point

    def add(self, time: float, probabilities: Curves) -> None:
        """Add a window: its middle in seconds, and the probabilities (K,)."""
        self._pending.append((time, probabilities))
        if len(self._pending) == self._every:
            self._flush()
        if len(self._times) >= 2 * POINTS:
            self._times = [sum(pair) / 2 for pair in _pairs(self._times)]
            self._values = [np.mean(pair, axis=0) for pair in _pairs(self._values)]
            self._every *= 2

    def points(self) -> tuple[list[float], Curves]:
        """Times (N,) and probabilities (N, K)."""
        if self._pending:
            self._flush()
        return self._times, np.array(self._values, dtype=np.float32)

    def _flush(self) -> None:
        times, values = zip(*self._pending, strict=True)
        self._times.append(sum(times) / len(times))
        self._values.append(np.mean(values, axis=0))
        self._pending = []


def _pairs(values: Sequence) -> list[tuple]:
    return list(zip(values[::2], values[1::2], strict=True))
