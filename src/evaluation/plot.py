"""A timeline as a picture: the probability of the classes that come up, over time."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from src.data.sources import Uint8

POINTS = 2000  # of a curve, more than the picture has columns
WIDTH, HEIGHT = 1200, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 260, 20, 40  # margins; the names are in the right one
INK, PALE = (60, 60, 60), (225, 225, 225)
COLOURS = (  # RGB, told apart by colour-blind readers (Okabe & Ito)
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
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


def save_plot(path: Path, timeline: Timeline, class_names: Sequence[str]) -> None:
    """Draw the classes that have the highest peaks, as a PNG."""
    times, values = timeline.points()
    if not times:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.cvtColor(draw_plot(times, values, class_names), cv2.COLOR_RGB2BGR)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def draw_plot(times: Sequence[float], values: Curves, class_names: Sequence[str]) -> Uint8:
    """The picture (H, W, 3) of probabilities (N, K) at ascending times in seconds."""
    image = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    begin, end = times[0], max(times[-1], times[0] + 1e-3)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    x = LEFT + (np.asarray(times) - begin) / (end - begin) * width
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = round(TOP + (1 - share) * height)
        cv2.line(image, (LEFT, y), (LEFT + width, y), PALE, 1)
        _write(image, f"{share:.0%}", (10, y + 5))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        column = round(LEFT + share * width)
        cv2.line(image, (column, TOP + height), (column, TOP + height + 4), INK, 1)
        _write(image, _clock(begin + share * (end - begin)), (column - 20, HEIGHT - 14))
    highest = np.argsort(-values.max(axis=0), kind="stable")[: len(COLOURS)].tolist()
    for place, label in reversed(list(enumerate(highest))):  # the highest lies on top
        curve = TOP + (1 - values[:, label]) * height
        points = np.rint(np.stack([x, curve], axis=-1)).astype(np.int32)  # (N, 2)
        colour = COLOURS[place]
        cv2.polylines(image, [points], False, colour, 2, cv2.LINE_AA)
        if len(points) == 1:
            cv2.circle(image, tuple(points[0].tolist()), 3, colour, -1, cv2.LINE_AA)
        row = TOP + 16 + 24 * place
        cv2.line(image, (WIDTH - RIGHT + 15, row), (WIDTH - RIGHT + 40, row), colour, 3)
        _write(image, class_names[label], (WIDTH - RIGHT + 48, row + 5))
    return image


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds)))


def _write(image: Uint8, text: str, at: tuple[int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
