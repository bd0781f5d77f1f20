"""Commands and ranks in processes of their own, as users have them but for the imports.

They are forked from a server that has imported torch; signals and standard streams are theirs.
"""

import contextlib
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from src.training.launch import Work, place_to_meet, run_one
from src.utils.mistakes import one_line_errors
from src.utils.ranks import leave_group
from tests.conftest import compose_config


class Command:
    """`python -m module arguments`, which has been started."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            module, arguments: what is run.
            folder: for what it writes.
            environment: more variables.
        """
        self._files = folder / "stdout.txt", folder / "stderr.txt"
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run_command, args=(module, arguments, self._files, environment or {})
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    @property
    def output(self) -> str:
        """What it has printed until now."""
        return self._files[0].read_text() if self._files[0].exists() else ""

    @property
    def errors(self) -> str:
        return self._files[1].read_text() if self._files[1].exists() else ""

    def wait(self, seconds: float = 240) -> int:
        """Its status, negative by a signal; it is killed if it has not ended by then."""
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            raise TimeoutError(f"{self.output}\n{self.errors}")
        return status


def run_as_ranks(
    overrides: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    command: str = "train",
    work: Work = run_one,
    devices: int = 2,
) -> tuple[list[int | None], str]:
    """Do a command's work; the status of each process and what all have written.

    Args:
        overrides: of the config.
        folder: for what they write.
        environment: more variables.
        command, work: the name of its config, and what it does with it.
        devices: how many processes.
    """
    context = multiprocessing.get_context("forkserver")
    place = {**place_to_meet(nodes=1, job=0), **(environment or {})}
    ddp = ("trainer=ddp", f"trainer.devices={devices}", "trainer.accelerator=cpu")
    outputs = [folder / f"rank{rank}.txt" for rank in range(devices)]
    ranks = [
        context.Process(
            target=_run_rank, args=(rank, place, command, [*overrides, *ddp], work, output)
        )
        for rank, output in enumerate(outputs)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(120)
    finally:
        for process in ranks:
            process.kill()
    return [process.exitcode for process in ranks], "".join(file.read_text() for file in outputs)


def _run_command(
    module: str, arguments: Sequence[str], files: tuple[Path, Path], environment: Mapping[str, str]
) -> None:
    _settle(*files, environment=environment)
    sys.argv = [f"{module}.py", *arguments]
    try:
        importlib.import_module(module).main()
    finally:
        sys.stdout.flush()


def _run_rank(
    rank: int,
    place: Mapping[str, str],
    command: str,
    overrides: Sequence[str],
    work: Work,
    output: Path,
) -> None:
    _settle(output, output, environment={**place, "LOCAL_RANK": str(rank)})
    try:
        with one_line_errors():
            work(compose_config(command, *overrides), [])
            leave_group()  # here, as processes of multiprocessing end without atexit
    finally:
        sys.stdout.flush()


def _settle(output: Path, errors: Path, environment: Mapping[str, str]) -> None:
    for stream, path in ((1, output), (2, errors)):
        with path.open("a") as file:
            os.dup2(file.fileno(), stream)
    with contextlib.suppress(AttributeError):
        os.setsid()  # a signal to the tests is none to it
    os.environ.update(environment)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # of its own loaders: the usual one


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Until something is the case."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
