"""Jobs on several devices: one process group each, in a sweep too, and no process that stays."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from src.errors import UserError
from src.reporting.collect import collect
from tests.conftest import TINY

ON_TWO = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
BATCHES = ("stages.appearance.batch_size=8", "stages.appearance.data.batch_size=4")


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(
    folder: Path, *overrides: str, by: Sequence[str] = (), on: Sequence[str] = ON_TWO
) -> "subprocess.Popen[str]":
    command = [sys.executable, *by, "-m", "src.train", "experiment=appearance_two_movers", *TINY]
    command += [*on, *BATCHES, *overrides]
    command += [f"data.dataset.root={folder / 'data'}", f"paths.output_dir={folder / 'outputs'}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_each_job_of_a_sweep_runs_once_with_its_own_config(tmp_path: Path) -> None:
    """Two jobs of two processes: a table and a record for each, metrics of one logger, its seed."""
    run = start(tmp_path, "hydra.mode=MULTIRUN", "seed=3,4", "label_smoothing=0.1")
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors[-2000:]
    assert output.count("appearance │") == 2
    sweeps = tmp_path / "outputs" / "sweeps"
    folders = sorted(path for path in sweeps.iterdir() if path.is_dir())
    assert len(folders) == 2
    assert len(list(sweeps.rglob("stage.json"))) == 2
    assert [path.name for path in sweeps.rglob("version_*")] == ["version_0"] * 2
    records = sorted(collect([str(sweeps)]).runs, key=lambda run: run.seed)
    assert [(run.seed, run.folder.parent) for run in records] == list(
        zip((3, 4), folders, strict=True)
    )
    assert all("label_smoothing=0.1" in (run.overrides or ()) for run in records)
    assert not any("rank" in path.name for path in tmp_path.rglob("*"))


def test_a_mistake_is_one_line_once(tmp_path: Path) -> None:
    run = start(tmp_path, "data.stack=7")
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 1
    lines = [line for line in errors.splitlines() if "data.stack=7" in line]
    assert len(lines) == 1, errors


class Mistake(pl.Callback):
    """What one process alone finds wrong, in its part of the data."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_rank == 1:
            raise UserError("clip.mp4 is on fire")


def test_a_mistake_that_the_second_process_meets_is_the_last_line(tmp_path: Path) -> None:
    """The first only loses the connection."""
    run = start(tmp_path, "+callbacks.mistake._target_=tests.training.test_launch.Mistake")
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 1
    assert errors.splitlines()[-1] == "error: clip.mp4 is on fire"


def test_torchrun_starts_the_processes(tmp_path: Path) -> None:
    run = start(tmp_path, by=TORCHRUN)
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors[-2000:]
    assert output.count("appearance │") == 1
    assert output.count("pass 1 of 1") == 1
    stage = tmp_path / "outputs/appearance_two_movers/split1_seed0/appearance"
    assert (stage / "stage.json").is_file()
    with (stage / "scores.csv").open() as file:
        videos = [row["video"] for row in csv.DictReader(file)]
    assert len(videos) == len(set(videos)) == 8
    assert [path.name for path in stage.rglob("version_*")] == ["version_0"]


def test_torchrun_without_ddp_is_refused(tmp_path: Path) -> None:
    run = start(tmp_path, by=TORCHRUN, on=["trainer.accelerator=cpu"])
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "error: torchrun started 2 processes on each of 1 nodes, but trainer.dev" in errors
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ["a process dies", "SIGTERM", "SIGKILL"])
def test_no_process_stays(how: str, tmp_path: Path) -> None:
    run = start(tmp_path, "trainer.max_epochs=200", "stages.appearance.module.schedule.epochs=200")
    checkpoint = tmp_path / "outputs/appearance_two_movers/split1_seed0/appearance/last.ckpt"
    wait_for(checkpoint.is_file, 120)
    ranks = children(run.pid)
    assert len(ranks) == 2
    if how == "a process dies":
        os.kill(ranks[1], signal.SIGKILL)
    else:
        run.send_signal(getattr(signal, how))
    _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    if how == "a process dies":
        assert "process 1 of 2 ended with status -9" in errors
    if how == "SIGTERM":
        assert run.returncode == 128 + signal.SIGTERM
        assert errors.count("stopped by SIGTERM: the same command goes on") == 1
        assert "Traceback" not in errors
    assert torch.load(checkpoint, weights_only=True)["epoch"] >= 0  # whole, whatever happened
    wait_for(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), 20)


def children(parent: int) -> list[int]:
    """The processes of both ranks, in order."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(stat[1]) == parent and b"src.training.rank" in command:
            rank = next(e for e in environment if e.startswith(b"LOCAL_RANK="))
            found.append((int(rank.partition(b"=")[2]), int(process.name)))
    return [process for _, process in sorted(found)]


def wait_for(condition: object, seconds: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
