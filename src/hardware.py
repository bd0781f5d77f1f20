"""What the machine lends this process."""

import contextlib
import os
import resource
import sys
from pathlib import Path


def usable_cores() -> int:
    """Cores this process may use: a scheduler's share, not the machine's number."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_of_tree_gib() -> float | None:
    """Memory of this process and its children now, in GiB; pages that are shared count once.

    None where the system does not tell (it is Linux's proportional set size).
    """
    if not Path("/proc/self/smaps_rollup").exists():
        return None
    return sum(map(_proportional_kib, _family(os.getpid()))) / 2**20


def _family(pid: int) -> list[int]:
    """A process and all below it; threads and processes may end while they are counted."""
    family = [pid]
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in thread.read_text().split():
                family += _family(int(child))
    return family


def _proportional_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
