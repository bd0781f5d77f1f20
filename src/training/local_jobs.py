"""Jobs of a sweep side by side on one machine, each in a process and on devices of its own.

A job is a run of its own: what it prints is in job.log of its directory, and its record there says
what became of it. Its process comes from a server that has imported what all need, and has loaders
and ranks of its own, which those of joblib, Hydra's launcher, cannot have.
"""

import fcntl
import math
import multiprocessing
import os
import pkgutil
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import cv2
import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from src.experiment.run_dir import StageDir
from src.training.launch import SAVING
from src.utils.errors import visible
from src.utils.files import is_locked
from src.utils.processes import (
    CPU_COUNT,
    end_with_parent,
    on_signals,
    process_context,
    usable_cores,
)

LOG = "job.log"
LOOK_AFTER = 0.1  # seconds from one look at the processes to the next
DRAW_AFTER = 1.0  # and from one drawing
VISIBLE = "CUDA_VISIBLE_DEVICES"
_EPOCH = re.compile(r"(\S+: epoch (\d+)/(\d+),.*?)(?:, ([\d.]+) s)?$")


@dataclass(frozen=True)
class LocalJob:
    """A job that is to be run: what it does, its directory and what it needs."""

    label: str
    work: Callable[..., object]  # a module's function, which the process calls
    arguments: Sequence[Any]
    folder: Path
    overrides: Sequence[str] = ()  # that the sweep gives it
    devices: int = 0  # GPUs
    shared: frozenset[Path] = frozenset()  # directories of stages that other jobs train, too

    def places(self) -> set[Path]:
        """Where no other may train while it does; stages that are finished are not trained."""
        return {self.folder, *(path for path in self.shared if not StageDir(path).record.is_file())}


class Devices:
    """GPUs that are lent to one job at a time, by whichever sweep on this machine.

    Args:
        names: as CUDA_VISIBLE_DEVICES has them.
        folder: of the files that are locked.
    """

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        self.names, self._folder = tuple(names), folder or Path(tempfile.gettempdir())

    def take(self, count: int) -> "dict[str, IO[str]] | None":
        """So many of them that are free, with their locks; None if there are not as many."""
        taken: dict[str, IO[str]] = {}
        for name in self.names if count else ():
            file = self._open(name)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            taken[name] = file
            if len(taken) == count:
                return taken
        give_back(taken)
        return None if count else {}

    def _open(self, name: str) -> IO[str]:
        """The file that is locked for a device, by all users of the machine."""
        plain = re.sub(r"[^\w-]", "_", name)
        path = self._folder / f"st_resnet_gpu_{plain}.lock"
        try:
            return path.open()  # another's, which may not be opened to be made
        except FileNotFoundError:
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT, 0o644))


def give_back(taken: "Mapping[str, IO[str]]") -> None:
    """Let go of devices."""
    for file in taken.values():
        file.close()


@dataclass
class _Running:
    job: LocalJob
    slot: int  # among those that run at a time
    taken: "dict[str, IO[str]]"
    process: BaseProcess
    began: float = field(default_factory=time.monotonic)
    heard: int = 0  # signals

    def hand_on(self, signals: Sequence[int]) -> None:
        """Send it those signals that it has not been sent yet."""
        assert self.process.pid
        for number in signals[self.heard :]:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)
        self.heard = len(signals)

    def line(self) -> str:
        """What it is at: its last epoch, and how long those that are left take."""
        took = timedelta(seconds=round(time.monotonic() - self.began))
        return f"{self.job.label}  {took}  {last_epoch(self.job.folder / LOG)}"


def last_epoch(file: Path) -> str:
    """The last line of a log that tells of an epoch, and the time that is left of its stage."""
    try:
        with file.open("rb") as content:
            content.seek(max(0, content.seek(0, os.SEEK_END) - 2**14))
            lines = content.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        if match := _EPOCH.search(line):
            epoch, of, seconds = int(match[2]), int(match[3]), float(match[4] or 0)
            left = timedelta(seconds=round((of - epoch) * seconds))
            return f"{match[1]}, {left} left"
    return "begins"


def run_jobs(
    jobs: Sequence[LocalJob],
    n_jobs: int,
    devices: Devices,
    ended: Callable[[LocalJob, int], Any],
) -> None:
    """Run all jobs, up to `n_jobs` at a time, as devices are free; each job's end is told at once.

    A job whose directory another one trains in waits without a device. Signals are handed on to the
    jobs, which save and end, and no other is started.

    Args:
        ended: is called with a job and the status of its process.

    Raises:
        KeyboardInterrupt, SystemExit: a signal came, and all jobs have ended.
    """
    waiting, running, signals = list(jobs), list[_Running](), list[int]()
    stop, alive = multiprocessing.Pipe(duplex=False)  # closed by the end of this process
    drawn, deadline = 0.0, math.inf
    try:
        with on_signals(signals.append), _view() as draw:
            while running or (waiting and not signals):
                for job in [] if signals else list(waiting):
                    if len(running) == n_jobs:
                        break
                    if not _may_begin(job, running) or (taken := devices.take(job.devices)) is None:
                        continue
                    slot = min({*range(n_jobs)} - {child.slot for child in running})
                    waiting.remove(job)
                    running.append(_start(job, slot, n_jobs, taken, stop))
                for child in list(running):
                    child.hand_on(signals)
                    if child.process.exitcode is not None:
                        running.remove(child)
                        give_back(child.taken)
                        ended(child.job, child.process.exitcode)
                if signals:
                    deadline = min(deadline, time.monotonic() + SAVING)
                if time.monotonic() > deadline:
                    break
                if time.monotonic() - drawn > DRAW_AFTER:
                    more = [f"{len(waiting)} more to come"] if waiting else []
                    draw([*(child.line() for child in running), *more])
                    drawn = time.monotonic()
                time.sleep(LOOK_AFTER)
    finally:
        for child in running:
            child.process.kill()
            child.process.join()
            give_back(child.taken)
        alive.close()
        stop.close()
    if signals:
        if signals[0] == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + signals[0])


def _may_begin(job: LocalJob, running: Sequence[_Running]) -> bool:
    """Whether nobody trains in one of a job's directories, in this sweep or in another."""
    places = job.places()
    if any(places & child.job.places() for child in running):
        return False
    return not any(is_locked(StageDir(place).lock) for place in places & job.shared)


def _start(
    job: LocalJob, slot: int, n_jobs: int, taken: "dict[str, IO[str]]", stop: Connection
) -> _Running:
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({VISIBLE: ",".join(taken)} if taken else {})}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    # More jobs than cores share all: bound to one each, some have it alone, others half of it.
    share = cores[slot::n_jobs] if n_jobs <= len(cores) else cores
    environment[CPU_COUNT] = str(max(1, len(range(slot, usable_cores(), n_jobs))))
    context: Any = process_context(__name__)
    process = context.Process(target=_run, args=(job, environment, share, stop))
    process.start()
    return _Running(job, slot, taken, process)


def _run(
    job: LocalJob, environment: Mapping[str, str], cores: Sequence[int], stop: Connection
) -> None:
    """Do a job in this process, which ends when the other end of `stop` does."""
    os.setsid()  # so that each signal reaches it once, from its parent
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(None, force=True)  # of its own loaders: the usual one
    end_with_parent(stop)
    os.environ.clear()
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(job.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for file, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(file, number)
    if cores:
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(min(usable_cores(), torch.get_num_threads()))
    cv2.setNumThreads(usable_cores())
    job.work(*job.arguments)


def train(arguments: Sequence[str]) -> None:
    """`python -m src.train` with arguments."""
    sys.argv = ["train.py", *arguments]
    pkgutil.resolve_name("src.train:main")()


@contextmanager
def _view() -> Iterator[Callable[[Sequence[str]], None]]:
    """A line for each running job at the bottom of a terminal; elsewhere nothing."""
    console = Console(stderr=True)
    with ExitStack() as stack:
        if not console.is_terminal:
            yield lambda lines: None
            return
        live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))

        def draw(lines: Sequence[str]) -> None:
            text = "\n".join(map(visible, lines))
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

        yield draw
