"""Windows over frames as they come, whatever their times."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest

from src.media.sources import Uint8
from src.prediction.windows import HeldFrame, RememberedFlow, Window, sliding_windows

PICTURE = np.zeros((1, 1, 3), np.uint8)


class Tick(HeldFrame):
    """A frame without a picture."""

    def __init__(self, time: float, duration: float = 0.5) -> None:
        super().__init__(0, time, duration, PICTURE, PICTURE)


def spans(windows: Iterable[Window]) -> list[tuple[float, float, int]]:
    return [(w.start, w.end, len(w.frames)) for w in windows]


def ticks(count: int, begin: float = 0.0) -> list[Tick]:
    return [Tick(begin + number / 2) for number in range(count)]


@pytest.mark.parametrize(
    ("times", "length", "step", "expected"),
    [
        (ticks(8), 2, 1, [(0, 2, 4), (1, 3, 4), (2, 4, 4)]),
        (ticks(9), 2, 2, [(0, 2, 4), (2, 4, 4), (2.5, 4.5, 4)]),  # the last ends with the video
        (ticks(3), 2, 1, [(0, 1.5, 3)]),  # shorter than a window
        (ticks(4, begin=1.5), 1, 1, [(1.5, 2.5, 2), (2.5, 3.5, 2)]),
        (ticks(12), 1, 3, [(0, 1, 2), (3, 4, 2)]),  # a step beyond the window
        (ticks(1), 2, 1, [(0, 0.5, 1)]),
        ([], 2, 1, []),
        # A picture stands still for a long time: no window there, and none of a single frame.
        ([*ticks(2), Tick(1e9, 1)], 1, 1, [(0, 1, 2), (1e9, 1e9 + 1, 2)]),
    ],
)
def test_windows(
    times: Sequence[Tick], length: float, step: float, expected: list[tuple[float, float, int]]
) -> None:
    assert spans(sliding_windows(times, length, step)) == expected


def test_no_frame_is_lost_or_kept_longer_than_needed() -> None:
    """What is held is bounded by the window, however long the video is."""
    alive: set[int] = set()

    class Counted(Tick):
        def __del__(self) -> None:
            alive.discard(id(self))

    def frames() -> Iterator[Tick]:
        for number in range(5000):
            frame = Counted(number / 25, 1 / 25)
            alive.add(id(frame))
            yield frame

    most, seen = 0, set[float]()
    for window in sliding_windows(frames(), 2.0, 1.0):
        seen |= {frame.time for frame in window.frames}
        most = max(most, len(alive))
    assert len(seen) == 5000
    assert most <= 2 * 50 + 2  # a window that is used, and the frames of the next


class Counting:
    """Flow whose field i has the level i; counts what is asked for."""

    num_fields, size = 20, (2, 2)

    def __init__(self, first: int, asked: list[int]) -> None:
        self.first, self.asked = first, asked

    def flow(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        for index in indices:
            self.asked.append(self.first + index)
            field = np.full((2, 2), self.first + index, np.uint8)
            yield field, field


def test_flow_is_computed_once() -> None:
    asked: list[int] = []
    memory: dict[int, tuple[Uint8, Uint8]] = {}
    for first in (0, 5):
        remembered = RememberedFlow(Counting(first, asked), first, memory)
        fields = remembered.flow([1, 8, 3, 6, 3])
        assert [u[0, 0] - first for u, _ in fields] == [1, 8, 3, 6, 3]
    assert asked == [1, 3, 6, 8, 11, 13]
