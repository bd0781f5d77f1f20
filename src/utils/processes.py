"""This process and those it starts: signals, the machine's share, workers that end with it."""

import contextlib
import functools
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

from src.utils.errors import UserError

CPU_COUNT = "PYTHON_CPU_COUNT"  # Python's own variable, from 3.13 on


def usable_cores() -> int:
    """Cores that this process is to use: PYTHON_CPU_COUNT, or else a scheduler's share."""
    if (count := os.environ.get(CPU_COUNT, "")).isdecimal():
        return max(1, int(count))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


@functools.cache
def heeded_signals() -> tuple[signal.Signals, ...]:
    """What asks this process to end.

    What it was started to ignore stays ignored, by nohup for one: as it is when first asked for,
    and not when this module is imported, which a server of processes does with SIGINT ignored.
    """
    known = (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"))
    return tuple(
        number for number in known if number and signal.getsignal(number) is not signal.SIG_IGN
    )


@contextlib.contextmanager
def on_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call a function with the number of each signal that comes meanwhile, which ends nothing.

    In another thread than the main one, which alone Python tells of signals, it does nothing.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = {
        number: signal.signal(number, lambda number, _: handle(number))
        for number in heeded_signals()
        if in_main
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent() -> None:
    """From now on none of them ends this process: schedulers and terminals send them to all.

    So the parent has its workers for as long as it takes to end in good order. It must end them
    by another signal.
    """
    for number in heeded_signals():
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def worker_pool(
    count: int, module: str, setup: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes, ended at once when the block is left: in the middle of a job, too.

    The module that they run is imported once for all of them where possible; `setup` is called in
    each before its first job, with the process's number from 0 and `arguments`.
    """
    context = process_context(module)
    stop, running = context.Pipe(duplex=False)
    numbers = context.SimpleQueue()
    for number in range(count):
        numbers.put(number)
    pool = ProcessPoolExecutor(count, context, _start, (stop, numbers, setup, arguments))
    # `running` is closed before the pool waits for its workers: there is nothing to wait for.
    with stop, pool, running:
        yield pool


def process_context(module: str) -> BaseContext:
    """How processes start: never by a plain fork, which copies locks that threads may hold.

    Args:
        module: what they run; it is imported once for all of them where possible.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _start(
    stop: Connection,
    numbers: "SimpleQueue[int]",
    setup: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches all processes: the parent decides
    end_with_parent(stop)
    number = numbers.get()
    if setup:
        setup(number, *arguments)


def end_with_parent(stop: Connection) -> None:
    """From now on this process ends when the parent closes its end of the pipe, or dies."""
    threading.Thread(target=_leave, args=(stop,), daemon=True).start()


def _leave(stop: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        stop.recv_bytes()
    os._exit(1)


J = TypeVar("J")
R = TypeVar("R")


class WorkerCrashed(Exception):
    """The process of a job died or hung."""


def in_parallel(
    function: Callable[[J], R], jobs: Sequence[J], workers: int, timeout: float
) -> Iterator[tuple[J, R | Exception]]:
    """Yield (job, result) as results come, each once; none can end the others by a crash or a hang.

    A job without a result comes with what it raised, or with `WorkerCrashed`: after `timeout`
    seconds without any result, those under way count as hung. Each worker gets the function once.

    Raises:
        UserError: workers cannot be started.
    """
    waiting = deque(jobs)
    while waiting:
        # One of these did it. In a process of its own, it can end no other.
        for suspect in (yield from _until_broken(function, waiting, workers, timeout)):
            if (yield from _until_broken(function, deque([suspect]), 1, timeout)):
                yield suspect, WorkerCrashed("the process that read it died or hung")


def _until_broken(
    function: Callable[[J], R], waiting: deque[J], workers: int, timeout: float
) -> Generator[tuple[J, R | Exception], None, list[J]]:
    """Work `waiting` off; returns the jobs under way when a worker died or hung."""
    under_way: dict[Future[Any], J] = {}
    count = min(workers, len(waiting))
    with worker_pool(count, type(function).__module__, _set_function, function) as pool:
        try:  # until workers have imported what they need, which is no job's time
            for ready in [pool.submit(int) for _ in range(count)]:
                ready.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died at its start, for lack of memory perhaps: give fewer workers"
            ) from error
        while waiting or under_way:
            try:
                while waiting and len(under_way) < 2 * count:  # few, for each may be a suspect
                    under_way[pool.submit(_call, waiting[0])] = waiting[0]
                    waiting.popleft()
                done = wait(under_way, timeout, FIRST_COMPLETED).done
                for future in done:
                    result = _result(future)
                    yield under_way.pop(future), result
            except BrokenProcessPool:
                break
            if not done:
                break
        return list(under_way.values())


def _result(future: Future[R]) -> R | Exception:
    try:
        return future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:
        return error


_function: Callable[[Any], Any]


def _set_function(_: int, function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _call(job: Any) -> Any:
    return _function(job)
