"""One process per device, all with the same config, for one job of a sweep or for a single run.

Lightning's own launcher repeats the command line in every process; in a sweep (`-m`) each of them
would run the full sweep again. Here the processes are started with the job's composed config in a
file, `python -m src.training.launch`, and end with the job. torchrun and SLURM start processes
themselves.
"""

import atexit
import json
import logging.config
import math
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import (
    LightningEnvironment,
    find_free_network_port,
)
from omegaconf import DictConfig, OmegaConf

from src.training.group import Group, tell_lightning
from src.training.pipeline import run_experiment
from src.training.stop import end_at_signals, ignore_signals
from src.training.trainer import instantiate_trainer
from src.utils.errors import UserError
from src.utils.mistakes import find_mistake, one_line_errors, quieten
from src.utils.processes import end_with_parent, on_signals
from src.utils.ranks import leave_group, own_rank

NOTICE = 1.0  # seconds in which a signal reaches all processes of a job
GRACE = 10.0  # seconds in which the other processes may end by themselves after one has failed
AT_ONCE = 0.3  # seconds in which processes meet the same bug; a lost connection takes longer
MISTAKE = 3  # status of a process that ended with one line for the user, not by a bug
MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # variables for several machines
SAVING = 60.0  # seconds in which all may save what they have after a signal; schedulers wait less
READY, BUG = "ready", "bug"  # what a process says: it has imported everything; it ends by a bug
Work = Callable[[DictConfig, Sequence[str]], float | None]


def run_one(cfg: DictConfig, overrides: Sequence[str]) -> float:
    """`run_experiment` in one process of the job, which signals may end at any time."""
    end_at_signals()
    try:
        return run_experiment(cfg, overrides)
    except SystemExit:
        ignore_signals()  # Lightning has put back the handlers from before
        raise
    except Exception as error:
        if find_mistake(error) is None:
            # Where all are asked to end, one may first lose its connection to another, or a worker
            # that loads its data: that is no failure of the job.
            time.sleep(NOTICE)
        raise


def run_on_all_devices(cfg: DictConfig, hydra: Any, work: Work = run_one) -> float | None:
    """Do a job's work in as many processes as its trainer has devices on this machine.

    Args:
        cfg, hydra: the composed config, and Hydra's own of this job.
        work: a module's function that takes the config and the overrides.

    Returns:
        What `work` returns on the first of them.

    Raises:
        UserError: a process ended before its time, or others than the trainer's were started.
        SystemExit: the first process ended with an error, which it has printed; or a signal
            came that ends it.
    """
    group = Group.from_environment()
    tell_lightning(group)
    trainer = instantiate_trainer(cfg.trainer)
    count = processes_to_start(trainer, group)
    if not count:
        if own_rank():
            logging.getLogger().setLevel(logging.WARNING)  # the first speaks for all
        return work_as_rank(work, cfg, list(hydra.overrides.task))
    place = place_to_meet(trainer.num_nodes, hydra.job.get("num", 0))
    spec = sys.modules[work.__module__].__spec__
    with tempfile.TemporaryDirectory() as folder:
        config, result = Path(folder) / "config.yaml", Path(folder) / "result.json"
        job = {
            # how another process finds it, also in the module that this one was started as
            "work": f"{spec.name if spec else work.__module__}:{work.__qualname__}",
            # as it is: a stage's config is made before interpolations are resolved
            "config": OmegaConf.to_container(cfg, resolve=False),
            "logging": OmegaConf.to_container(hydra.job_logging, resolve=True),
            "overrides": list(hydra.overrides.task),
        }
        OmegaConf.save(OmegaConf.create(job), config)
        _run_ranks(count, place, [str(config), str(result)], Path(folder))
        value: float | None = json.loads(result.read_text())
        return value


def work_as_rank(work: Work, cfg: DictConfig, overrides: Sequence[str]) -> float | None:
    """Do a job's work in this process, which leaves its group when it ends after a success.

    Not before: the next job of a sweep uses the same group. Under torchrun there can be no second
    one, which would meet the addresses of the first in the agent's store.
    """
    atexit.unregister(leave_group)  # after a failure, which others may not meet, it could hang
    value = work(cfg, overrides)
    atexit.register(leave_group)
    return value


def processes_to_start(trainer: pl.Trainer, group: Group | None) -> int:
    """How many processes this one has to start: the trainer's devices here.

    It is 0 if this process does the work itself: without a strategy for several, or in a group.

    Raises:
        UserError: the group is another than the trainer's, or of an unknown starter.
    """
    if group is not None:
        group.check_fits(trainer)
        return 0
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if not isinstance(environment, LightningEnvironment):
        return 0
    if "LOCAL_RANK" in os.environ:
        raise UserError(
            f"LOCAL_RANK={os.environ['LOCAL_RANK']} is set, but neither torchrun nor srun has "
            "started this process: unset LOCAL_RANK if it is a leftover, else start with torchrun"
        )
    return trainer.num_devices


def place_to_meet(nodes: int, job: int) -> dict[str, str]:
    """Where the processes of a sweep's job, on so many machines, meet: environment variables.

    Raises:
        UserError: they are on several machines, and there is no address to meet at.
    """
    if nodes == 1:  # whatever else is in the environment is of others
        port = str(find_free_network_port())
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    missing = [name for name in MEETING if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"trainer.num_nodes={nodes} without {', '.join(missing)}: start the processes with "
            "srun or torchrun, or the command on each machine with "
            f"{' '.join(f'{name}=...' for name in MEETING)} (NODE_RANK from 0 to {nodes - 1})"
        )
    # The job before may still hold its port on the first machine when the others are done.
    return {"MASTER_PORT": str(int(os.environ["MASTER_PORT"]) + job)}


def _run_ranks(
    count: int, place: Mapping[str, str], arguments: Sequence[str], folder: Path
) -> None:
    alive, own_end = os.pipe()  # closed by the end of this process, whatever ends it
    processes: list[subprocess.Popen[bytes]] = []
    outputs = [folder / f"rank{rank}.txt" for rank in range(count)]
    signals: list[int] = []  # that have come

    def forward(number: int) -> None:
        for rank, process in enumerate(processes):
            if mark_of(folder, rank, READY).exists():
                process.send_signal(number)
            else:  # it imports, which can lose a signal; there is nothing to save
                process.kill()
        signals.append(number)

    # They have sessions of their own, so that each signal reaches them once, through this process.
    with on_signals(forward):
        try:
            for rank in range(count):
                with outputs[rank].open("wb") as file:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, "-m", "src.training.launch", *arguments, str(alive)],
                            env={**os.environ, **place, "LOCAL_RANK": str(rank)},
                            # The first speaks for all; the others are heard if they alone fail.
                            stdout=None if rank == 0 else file,
                            stderr=None if rank == 0 else subprocess.STDOUT,
                            pass_fds=[alive],
                            start_new_session=True,
                        )
                    )
            statuses = _wait(processes, signals)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            os.close(alive)
            os.close(own_end)
    if signals and any(process.returncode for process in processes):
        sys.exit(128 + signals[0])
    failed = _to_blame(statuses, folder)
    if failed == 0:
        sys.exit(1 if statuses[0] == MISTAKE else statuses[0])
    if failed is not None:
        text = outputs[failed].read_text(errors="replace").strip()
        lines = text.splitlines()
        if statuses[failed] == MISTAKE and lines:
            raise UserError(lines[-1].removeprefix("error: "))
        print(text, file=sys.stderr)
        raise UserError(
            f"process {failed} of {count} ended with status {statuses[failed]}"
            + (f": {lines[-1].removeprefix(f'[rank{failed}]: ')}" if lines else "")  # torch's
        )


def _wait(processes: Sequence["subprocess.Popen[bytes]"], signals: Sequence[int]) -> list[int]:
    """Wait for all; if one fails or all are to end, only a while. 0 stands for no end, too."""
    deadline = math.inf
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        statuses = [process.returncode or 0 for process in processes]
        # A process that a signal has ended had not begun to train: there is nothing to save.
        if min(statuses) < 0 or (any(statuses) and not signals):
            deadline = min(deadline, time.monotonic() + GRACE)
        elif signals:
            deadline = min(deadline, time.monotonic() + SAVING)
        time.sleep(0.05)
    return [process.returncode or 0 for process in processes]


def _to_blame(statuses: Sequence[int], folder: Path) -> int | None:
    """Which process failed by itself; the others then do because they lose the connection."""
    failed = [rank for rank, status in enumerate(statuses) if status]
    by_signal = [rank for rank in failed if statuses[rank] < 0]
    by_mistake = [rank for rank in failed if statuses[rank] == MISTAKE]
    met = {
        rank: float(file.read_text())
        for rank in failed
        if (file := mark_of(folder, rank, BUG)).exists()
    }
    by_bug = sorted(met, key=met.__getitem__)
    if by_bug and met.get(0, math.inf) < met[by_bug[0]] + AT_ONCE:
        by_bug = [0]  # what all meet, it tells
    return next(iter([*by_signal, *by_mistake, *by_bug, *failed]), None)


def mark_of(folder: Path, rank: int, what: str) -> Path:
    """The file by which a process says that it is READY, or that it has met a BUG, and when."""
    return folder / f"{what}{rank}.txt"


def main(config: str, result: str, alive: str) -> None:
    """Do the job in the YAML file `config`; the first process writes its value to `result`.

    `alive` is the number of a pipe that nothing comes through; its end is the end of the parent.
    """
    end_with_parent(Connection(int(alive), writable=False))
    job: Any = OmegaConf.to_container(OmegaConf.load(config))
    rank = int(os.environ["LOCAL_RANK"])
    folder = Path(result).parent
    mark_of(folder, rank, READY).touch()
    if rank == 0 and os.environ.get("NODE_RANK", "0") == "0":
        logging.config.dictConfig(job["logging"])
    quieten()
    try:
        with one_line_errors():
            work = pkgutil.resolve_name(job["work"])
            cfg = OmegaConf.create(job["config"])  # by itself: its interpolations are from its root
            value = work_as_rank(work, cfg, job["overrides"])
    except SystemExit as end:
        sys.exit(MISTAKE if end.code == 1 else end.code)
    except Exception:
        mark_of(folder, rank, BUG).write_text(str(time.monotonic()))
        raise
    if rank == 0:
        Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    main(*sys.argv[1:])
