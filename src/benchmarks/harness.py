"""Timing of candidates side by side, so that a noisy machine slows all of them alike.

Every round runs each candidate once, and a ratio is the median of the rounds' own ratios: what
happens to the machine between two rounds does not enter.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

# Starts a command, and prints the memory of the largest process (KiB). It is small itself: to the
# system, a process has had the memory of the one that started it.
_SMALL = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


class Timed(NamedTuple):
    """How many items were done in the part of a run that counts, and its seconds."""

    items: int
    seconds: float


class Candidate(NamedTuple):
    """Something to time.

    `run` does the work once and returns how many items (clips, frames, steps) that was; with the
    seconds, if it has timed itself.
    """

    name: str
    run: Callable[[], int | Timed]
    note: str = ""  # for the table's last column


@dataclass(frozen=True)
class Speed:
    """A candidate's items per second, and how many times the baseline's that is."""

    name: str
    rate: float
    ratio: float
    lowest: float
    highest: float
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """One table: what was timed against which baseline, and how often."""

    title: str
    unit: str
    rounds: int
    rows: list[Speed]  # the first is the baseline
    notes: list[str] = field(default_factory=list)


def measure(
    title: str,
    unit: str,
    candidates: Sequence[Candidate],
    rounds: int,
    notes: Sequence[str] = (),
    warm: bool = False,
) -> Measurement:
    """Time all candidates, of which the first is the baseline, in turns.

    One round before the `rounds` does not count, unless all candidates are `warm`: have run before.
    """
    rates: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for turn in range(int(warm), rounds + 1):
        for candidate in candidates:
            start = time.perf_counter()
            done = candidate.run()
            if not isinstance(done, Timed):
                done = Timed(done, time.perf_counter() - start)
            if turn:
                rates[candidate.name].append(done.items / done.seconds)
    baseline = rates[candidates[0].name]
    rows = []
    for candidate in candidates:
        own = rates[candidate.name]
        ratios = [rate / base for rate, base in zip(own, baseline, strict=True)]
        spread = statistics.median(ratios), min(ratios), max(ratios)
        rows.append(Speed(candidate.name, statistics.median(own), *spread, candidate.note))
    return Measurement(title, unit, rounds, rows, list(notes))


@dataclass
class Command:
    """A command as a candidate's run: Python with these arguments, from its start to its end.

    `peaks` has the memory of the largest of its processes, in MiB, for each time that it ran.
    """

    arguments: Sequence[str]
    status: int = 0
    peaks: list[float] = field(default_factory=list)

    def __call__(self) -> int:
        """Run it once.

        Raises:
            RuntimeError: it ended with another status than `status`.
        """
        done = subprocess.run(
            [sys.executable, "-S", "-c", _SMALL, sys.executable, *self.arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != self.status:
            command = " ".join(self.arguments)
            raise RuntimeError(f"{command} ended with status {done.returncode}:\n{done.stderr}")
        self.peaks.append(int(done.stdout) / 1024)
        return 1


def wait(device: torch.device) -> None:
    """Let a GPU finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
