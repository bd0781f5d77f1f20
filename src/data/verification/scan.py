"""Many jobs in worker processes, none of which can end the rest by crashing or hanging."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from src.workers import worker_pool

J = TypeVar("J")
R = TypeVar("R")


class Lost(Exception):
    """The process of a job died or hung."""


def in_parallel(
    function: Callable[[J], R], jobs: Sequence[J], workers: int, timeout: float
) -> Iterator[tuple[J, R | Exception]]:
    """Yield (job, result) as results come; every job comes once, with what it raised or `Lost`
    if it has no result.

    Args:
        function: sent to each worker once.
        jobs: its arguments, sent one by one.
        workers: processes.
        timeout: seconds without any result after which the jobs under way count as hung.
    """
    waiting = deque(jobs)
    while waiting:
        # One of these did it. In a process of its own, it can end no other.
        for suspect in (yield from _until_broken(function, waiting, workers, timeout)):
            if (yield from _until_broken(function, deque([suspect]), 1, timeout)):
                yield suspect, Lost("the process that read it died or hung")


def _until_broken(
    function: Callable[[J], R], waiting: deque[J], workers: int, timeout: float
) -> Generator[tuple[J, R | Exception], None, list[J]]:
    """Work `waiting` off; returns the jobs under way when a worker died or hung."""
    under_way: dict[Future[Any], J] = {}
    count = min(workers, len(waiting))
    with worker_pool(count, "src.data.verification.inspection", _set_function, function) as pool:
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
