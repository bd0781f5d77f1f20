"""A job in several processes, as the launcher starts them, but for the time to import torch."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from src.training.launch import Work, place_to_meet, run_one
from src.utils.mistakes import one_line_errors
from src.utils.ranks import leave_group
from tests.conftest import compose_config


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
        context.Process(target=_rank, args=(rank, place, command, [*overrides, *ddp], work, output))
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


def _rank(
    rank: int,
    place: Mapping[str, str],
    command: str,
    overrides: Sequence[str],
    work: Work,
    output: Path,
) -> None:
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    with contextlib.suppress(AttributeError):
        os.setsid()  # a signal to the tests is none to it
    os.environ.update(place, LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    try:
        with one_line_errors():
            work(compose_config(command, *overrides), [])
            leave_group()  # here, as processes of multiprocessing end without atexit
    finally:
        sys.stdout.flush()
