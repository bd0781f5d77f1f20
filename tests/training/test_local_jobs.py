"""Jobs side by side: no device is lent twice or idle, no directory is trained in twice."""

import fcntl
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from src.training.local_jobs import (
    LOG,
    VISIBLE,
    Devices,
    LocalJob,
    give_back,
    last_epoch,
    run_jobs,
)
from src.utils.files import is_locked
from src.utils.processes import usable_cores
from tests.processes import wait_for

Span = tuple[float, float, list[str]]  # begin, end, and devices


def always() -> bool:
    return True


def note(folder: Path, seconds: float, makes: str = "", until: Callable[[], bool] = always) -> None:
    """Note when this process runs, until something is the case, and on which devices."""
    times = [f"{time.time()} {os.environ.get(VISIBLE, 'none')}"]
    (folder / "begun").touch()
    time.sleep(seconds)
    wait_for(until)
    (folder / "times").write_text("\n".join([*times, str(time.time())]))
    if makes:
        Path(makes).touch()


def as_many_run(root: Path, jobs: int, at_once: int) -> bool:
    """Whether as many run as can, of all jobs that have not ended."""
    begun, ended = (len(list(root.glob(f"*/{name}"))) for name in ("begun", "times"))
    return begun - ended >= min(at_once, jobs - ended)


def note_cores(folder: Path) -> None:
    """Note how many cores this process is to use, and on which it may run."""
    bound = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    (folder / "cores").write_text(" ".join(map(str, [usable_cores(), *bound])))


def noted_cores(count: int, root: Path) -> list[list[int]]:
    """What so many jobs at once note of their cores."""
    folders = [root / f"j{n}" for n in range(count)]
    jobs = [LocalJob(each.name, note_cores, (each,), each) for each in folders]
    run_jobs(jobs, count, Devices([], root), nothing)
    return [[*map(int, (each / "cores").read_text().split())] for each in folders]


def fail(status: int) -> None:
    """End with a status."""
    print("no", flush=True)
    raise SystemExit(status)


def timed(
    root: Path,
    name: str,
    seconds: float,
    makes: str = "",
    until: Callable[[], bool] = always,
    **options: Any,
) -> LocalJob:
    """A job that notes when it runs."""
    return LocalJob(name, note, (root / name, seconds, makes, until), root / name, **options)


def spans(root: Path) -> dict[str, Span]:
    found: dict[str, Span] = {}
    for file in root.glob("*/times"):
        first, last = file.read_text().splitlines()
        begin, devices = first.split()
        found[file.parent.name] = float(begin), float(last), devices.split(",")
    return found


def check_no_device_is_used_twice(found: dict[str, Span]) -> None:
    of_device: dict[str, list[tuple[float, float]]] = {}
    for begin, end, devices in found.values():
        for device in devices:
            of_device.setdefault(device, []).append((begin, end))
    for times in of_device.values():
        assert all(one[1] <= other[0] for one, other in pairwise(sorted(times)))


def nothing(*_: object) -> None:
    """Nobody needs to know that a job has ended."""


def test_no_device_is_used_twice_and_none_is_idle_while_a_job_waits(tmp_path: Path) -> None:
    """Else a job would not end: each waits until all devices are used that can be."""
    until = partial(as_many_run, tmp_path, jobs=20, at_once=8)
    jobs = [timed(tmp_path, f"j{n}", 0, until=until, devices=1) for n in range(20)]
    run_jobs(jobs, 20, Devices([str(n) for n in range(8)], tmp_path), nothing)
    found = spans(tmp_path)
    assert len(found) == 20
    check_no_device_is_used_twice(found)


def test_several_devices_for_each_job(tmp_path: Path) -> None:
    jobs = [timed(tmp_path, f"j{n}", 0.4, devices=2) for n in range(4)]
    run_jobs(jobs, 4, Devices(["3", "5", "GPU-a/b", "7", "8"], tmp_path), nothing)
    found = spans(tmp_path)
    check_no_device_is_used_twice(found)
    assert all(len(devices) == 2 for _, _, devices in found.values())


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound here")
@pytest.mark.parametrize("more", [0, 1])
def test_jobs_divide_the_cores_or_all_share_them(
    more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is idle: two cores and three jobs are not one core for two of them, and one for one."""
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    cores = sorted(os.sched_getaffinity(0))
    jobs = len(cores) + more
    assert noted_cores(jobs, tmp_path) == [
        [1, *(cores if more else cores[n : n + 1])] for n in range(jobs)
    ]


def test_jobs_divide_as_many_cores_as_they_are_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", "8")
    assert [use for use, *_ in noted_cores(3, tmp_path)] == [3, 3, 2]


def test_two_sweeps_at_once_share_the_devices(tmp_path: Path) -> None:
    def sweep(name: str) -> None:
        jobs = [timed(tmp_path, f"{name}{n}", 0.3, devices=1) for n in range(4)]
        run_jobs(jobs, 4, Devices(["0", "1"], tmp_path), nothing)

    threads = [threading.Thread(target=sweep, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = spans(tmp_path)
    assert len(found) == 8
    check_no_device_is_used_twice(found)


def test_no_more_jobs_than_asked_for_and_each_end_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    jobs = [timed(tmp_path, f"j{n}", 0.2) for n in range(4)]
    jobs.insert(1, LocalJob("fails", fail, (7,), tmp_path / "fails"))
    run_jobs(jobs, 2, Devices([], tmp_path), lambda job, status: told.append((job.label, status)))
    assert sorted(told) == [("fails", 7), *((f"j{n}", 0) for n in range(4))]
    assert (tmp_path / "fails" / LOG).read_text() == "no\n"
    found = sorted(spans(tmp_path).values())
    for begin, end, devices in found:
        assert sum(other[0] < end and begin < other[1] for other in found) <= 3
        assert devices == ["none"]


def test_a_job_that_waits_for_streams_holds_no_device(tmp_path: Path) -> None:
    """Those that need nothing of another go before it; what is finished is waited for no more.

    The first ends when the one that stands alone has begun, the second when the third has.
    """
    streams = tmp_path / "streams" / "motion"
    streams.mkdir(parents=True)

    def train(name: str, until: Callable[[], bool] = always) -> LocalJob:
        shared, made = frozenset({streams}), str(streams / "stage.json")
        return timed(tmp_path, name, 0, made, until, devices=1, shared=shared)

    begun = {name: (tmp_path / name / "begun").exists for name in ("alone", "c")}
    jobs = [train("a", begun["alone"]), train("b", begun["c"]), train("c")]
    jobs.append(timed(tmp_path, "alone", 0.2, devices=1))
    run_jobs(jobs, 4, Devices(["0", "1"], tmp_path), nothing)
    found = spans(tmp_path)
    assert len(found) == 4
    assert found["a"][1] <= min(found["b"][0], found["c"][0])


def test_a_stage_that_another_sweep_trains_is_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "motion"
    place.mkdir()
    job = timed(tmp_path, "a", 0, shared=frozenset({place}))
    holder = multiprocessing.get_context("forkserver").Process(target=hold, args=(place / ".lock",))
    holder.start()
    wait_for(lambda: is_locked(place / ".lock"))
    sweep = threading.Thread(target=run_jobs, args=([job], 1, Devices([]), nothing))
    sweep.start()
    time.sleep(0.5)
    assert not spans(tmp_path)
    holder.kill()
    sweep.join()
    assert len(spans(tmp_path)) == 1


def hold(path: Path) -> None:
    """Hold a lock, until this process is ended."""
    with path.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        time.sleep(600)


def sweep_of_holders(locks: Sequence[Path]) -> None:
    """A job for each lock."""
    jobs = [LocalJob(lock.stem, hold, (lock,), lock.parent) for lock in locks]
    run_jobs(jobs, len(jobs), Devices([]), nothing)


def test_no_job_outlives_a_sweep_that_is_killed(tmp_path: Path) -> None:
    locks = [tmp_path / name / "lock" for name in "ab"]
    sweep = multiprocessing.get_context("forkserver").Process(
        target=sweep_of_holders, args=(locks,)
    )
    sweep.start()
    wait_for(lambda: all(map(is_locked, locks)))
    sweep.kill()
    wait_for(lambda: not any(map(is_locked, locks)), seconds=10)


def test_devices_are_given_back(tmp_path: Path) -> None:
    devices = Devices(["0", "1", "2"], tmp_path)
    first, second = devices.take(2), devices.take(1)
    assert first is not None
    assert second is not None
    assert sorted([*first, *second]) == ["0", "1", "2"]
    assert devices.take(1) is None
    assert devices.take(0) == {}
    give_back(first)
    assert Devices(["1", "0"], tmp_path).take(3) is None  # what is not enough is free again
    again = devices.take(2)
    assert again is not None
    assert again.keys() == first.keys()


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([], "begins"),
        (["stage joint: 20 clips an update"], "begins"),
        (
            [
                "[2026] - joint: epoch 3/80, loss 1.0, of central test clips 45.1 %, 2.0 s",
                "w",
            ],
            "joint: epoch 3/80, loss 1.0, of central test clips 45.1 %, 0:02:34 left",
        ),
    ],
)
def test_what_a_job_is_at(lines: Sequence[str], shown: str, tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("x" * 2**15 + "\n" + "\n".join(lines))
    assert last_epoch(tmp_path / LOG) == shown
    assert last_epoch(tmp_path / "absent") == ""
