"""What the machine lends this process."""

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
    try:
        pids = [os.getpid(), *_children(os.getpid())]
        return sum(_proportional_kib(pid) for pid in pids) / 2**20
    except OSError:
        return None


def _children(pid: int) -> list[int]:
    children = [
        int(child)
        for thread in os.listdir(f"/proc/{pid}/task")
        for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    ]
    return children + [grandchild for child in children for grandchild in _children(child)]


def _proportional_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
