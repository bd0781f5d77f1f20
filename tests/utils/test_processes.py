"""Worker processes end when they should, and only then."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.utils.processes import usable_cores, worker_pool

_given: tuple[int, str] | None = None


def note(number: int, text: str) -> None:
    global _given
    _given = (number, text)


def tell(seconds: float) -> tuple[int, tuple[int, str] | None]:
    time.sleep(seconds)
    return os.getpid(), _given


@pytest.mark.parametrize(("variable", "cores"), [("3", 3), ("0", 1), ("default", None)])
def test_cores_as_python_counts_them(
    variable: str, cores: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)
    bound = usable_cores()
    monkeypatch.setenv("PYTHON_CPU_COUNT", variable)
    assert usable_cores() == (cores or bound)


@pytest.mark.slow
def test_each_worker_is_set_up_with_its_number() -> None:
    with worker_pool(2, __name__, note, "text") as pool:
        told = set(pool.map(tell, [0.5] * 4))
    assert {given for _, given in told} == {(0, "text"), (1, "text")}
    assert len(told) == 2  # processes, none of them this one
    assert os.getpid() not in {process for process, _ in told}


def test_an_error_ends_jobs_under_way() -> None:
    begin = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), worker_pool(1, __name__) as pool:
        process, _ = pool.submit(tell, 0).result()
        pool.submit(tell, 60)
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 20
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_ctrl_c_is_left_to_the_parent() -> None:
    with worker_pool(1, __name__) as pool:
        process, _ = pool.submit(tell, 0).result()
        job = pool.submit(tell, 0.3)
        os.kill(process, signal.SIGINT)
        assert job.result()[0] == process


# A job started in the background of a script ignores SIGINT, and so would what it starts.
SCRIPT = """
import signal, time
from src.utils.processes import worker_pool
signal.signal(signal.SIGINT, signal.default_int_handler)
with worker_pool(2, "time") as pool:
    pool.submit(abs, -1).result()
    jobs = [pool.submit(time.sleep, 60) for _ in range(4)]
    print("working", flush=True)
    jobs[0].result()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"working\n"
            process.send_signal(how)
            # Every process that it started holds its stderr: this waits for all of them.
            process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
