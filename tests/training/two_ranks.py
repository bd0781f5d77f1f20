"""A run in two processes, as the launcher starts them, but for the time to import torch."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from src.training.launch import place_to_meet, run_one
from src.utils.mistakes import one_line_errors
from src.utils.ranks import leave_group
from tests.conftest import compose_config

DDP = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


def train_as_two(
    overrides: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> tuple[list[int | None], str]:
    """Train, and tell the status of each process and what both have written.

    Args:
        overrides: of the config.
        folder: for what they write.
        environment: more variables.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    place = {**place_to_meet(nodes=1, job=0), **(environment or {})}
    told = [folder / f"rank{rank}.txt" for rank in range(2)]
    ranks = [
        context.Process(target=_rank, args=(rank, place, [*overrides, *DDP], told[rank]))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(120)
    finally:
        for process in ranks:
            process.kill()
    return [process.exitcode for process in ranks], "".join(file.read_text() for file in told)


def _rank(rank: int, place: Mapping[str, str], overrides: Sequence[str], told: Path) -> None:
    with told.open("w") as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    with contextlib.suppress(AttributeError):
        os.setsid()  # a signal to the tests is none to it
    os.environ.update(place, LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    try:
        with one_line_errors():
            run_one(compose_config("train", *overrides), [])
            leave_group()  # here, as processes of multiprocessing end without atexit
    finally:
        sys.stdout.flush()
