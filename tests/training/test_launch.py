"""Jobs on several devices: one process group each, in a sweep too, and no process that stays."""

import atexit
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch.testing import assert_close

from src import train
from src.evaluation.evaluate import evaluate_checkpoint
from src.evaluation.scores import VideoScores
from src.training import launch
from src.training.group import tell_lightning
from src.training.launch import place_to_meet
from src.training.pipeline import run_experiment
from src.utils.errors import UserError
from src.utils.files import RETRY_AFTER, exclusive_lock
from src.utils.processes import heeded_signals
from src.utils.ranks import own_rank
from tests.conftest import TINY, compose_config
from tests.processes import Command, wait_for

pytestmark = pytest.mark.slow

ON_TWO = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
BATCHES = ("stages.appearance.effective_batch_size=8", "stages.appearance.data.batch_size=4")


HERE = "tests.training.test_launch"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(
    folder: Path,
    *overrides: str,
    name: str = "appearance",
    environment: Mapping[str, str] | None = None,
) -> Command:
    return Command("src.train", arguments(folder, *overrides, name=name), folder, environment)


def arguments(folder: Path, *overrides: str, name: str = "appearance") -> list[str]:
    """Of a training on two processes; they make their data, unless `overrides` say where it is."""
    places = [f"data.dataset.root={folder / 'data'}", f"paths.output_dir={folder / 'outputs'}"]
    return [f"experiment={name}_two_movers", *TINY, *ON_TWO, *BATCHES, *places, *overrides]


def scored(stage: Path) -> list[str]:
    with (stage / "scores.csv").open() as file:
        return [row["video"] for row in csv.DictReader(file)]


GROUP_LEFT = "group: False"


class LastWords(pl.Callback):
    """Writes at the very end of its process whether there is still a group."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        assert torch.distributed.is_initialized()
        file = self.folder / f"last_words{trainer.global_rank}"
        # Before the project registers its own, which is therefore called earlier.
        atexit.register(lambda: file.write_text(f"group: {torch.distributed.is_initialized()}"))


def test_each_job_of_a_sweep_runs_once_with_its_own_config(tmp_path: Path) -> None:
    """Jobs of two processes and two stages: a table and a record for each, its seed, its scores.

    One fails: the others run all the same. What a shell has of other runs is of no account. The
    processes leave their group: its threads may abort an interpreter that ends.
    """
    strays = {"RANK": "1", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1", "NODE_RANK": "1"}
    overrides = ["hydra.mode=MULTIRUN", "seed=3,-1,4", "label_smoothing=0.1"]
    overrides += [f"{batch.replace('appearance', 'motion')}" for batch in BATCHES]
    overrides += ["data.dataset.num_train=17", "data.dataset.num_test=9"]  # uneven for two
    overrides += [f"+callbacks.last={{_target_:{HERE}.LastWords,folder:{tmp_path}}}"]
    sweep = start(tmp_path, *overrides, name="two_stream", environment=strays)
    assert sweep.wait() == 1
    assert "Traceback" not in sweep.errors
    assert "error: job 1 of the sweep failed" in sweep.errors.splitlines()[-1]
    (sweeps,) = (tmp_path / "outputs" / "sweeps").iterdir()
    jobs = [path.name for path in sweeps.iterdir() if path.is_dir()]
    assert sorted(jobs) == ["seed--1", "seed-3", "seed-4"]
    with (sweeps / "sweep.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["state"].partition(":")[0] for row in rows] == ["done", "failed", "done"]
    assert [bool(row["late_fusion_top1"]) for row in rows] == [True, False, True]
    assert [path.name for path in sweeps.rglob("version_*")] == ["version_0"] * 4
    records = {file.parent: json.loads(file.read_text()) for file in sweeps.rglob("stage.json")}
    stages = sorted((r["config"]["seed"], r["config"]["stage"]) for r in records.values())
    streams_and_fusion = ("appearance", "late_fusion", "motion")
    assert stages == [(seed, stage) for seed in (3, 4) for stage in streams_and_fusion]
    assert len({stage.parent for stage in records}) == 2
    for stage, record in records.items():
        assert "label_smoothing=0.1" in record["overrides"]
        videos = scored(stage)
        assert len(videos) == len(set(videos)) == 9
    assert not any("rank" in path.name for path in tmp_path.rglob("*"))
    assert [(tmp_path / f"last_words{rank}").read_text() for rank in range(2)] == [GROUP_LEFT] * 2
    stage, again = min(records), tmp_path / "again.csv"
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    evaluate_checkpoint(str(stage / "last.ckpt"), {}, trainer, str(again))
    together, alone = (VideoScores.load(path).scores for path in (stage / "scores.csv", again))
    assert_close(together, alone, rtol=1e-5, atol=1e-6)  # with one set of running statistics


class Fails(pl.Callback):
    """What one process alone meets, in its part of the data."""

    def __init__(self, mistake: bool) -> None:
        self.error = UserError("clip.mp4 is on fire") if mistake else ZeroDivisionError("a bug")

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_rank == 1:
            raise self.error


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (True, "error: clip.mp4 is on fire"),
        (False, "error: process 1 of 2 ended with status 1: ZeroDivisionError: a bug"),
    ],
)
def test_what_the_second_process_alone_meets_is_the_last_line(
    mistake: bool,
    told: str,
    tiny: tuple[str, ...],
    tmp_path: Path,
    call: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The first only loses the connection."""
    fails = f"+callbacks.fails={{_target_:{HERE}.Fails,mistake:{mistake}}}"
    assert call(train.main, *arguments(tmp_path, tiny[-1], fails)) == 1
    errors = capfd.readouterr().err
    assert errors.splitlines()[-1] == told
    assert ("in on_train_batch_start" in errors) != mistake  # the traceback


def test_processes_of_torchrun_do_all_jobs_in_one_group(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """And leave it when both are done."""
    last = f"+callbacks.last={{_target_:{HERE}.LastWords,folder:{tmp_path}}}"
    command = [sys.executable, *TORCHRUN, "-m", "src.train"]
    command += arguments(tmp_path, tiny[-1], last, "hydra.mode=MULTIRUN", "seed=3,4")
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [(tmp_path / f"last_words{rank}").read_text() for rank in range(2)] == [GROUP_LEFT] * 2
    stages = [file.parent for file in tmp_path.rglob("stage.json")]
    assert len(stages) == 2
    assert done.stdout.count(": appearance top-1 ") == 2
    assert done.stdout.count("top-1 of every job") == 1
    for stage in stages:
        videos = scored(stage)
        assert len(videos) == len(set(videos)) == 8
        assert [path.name for path in stage.rglob("version_*")] == ["version_0"]


def test_the_same_command_on_each_of_two_machines(tmp_path: Path) -> None:
    """Here on one of them, twice."""
    place = place_to_meet(nodes=1, job=0)
    alone = arguments(tmp_path, "trainer.devices=1", "trainer.num_nodes=2")
    runs = []
    for node in range(2):
        printed = tmp_path / f"machine{node}"
        printed.mkdir()
        runs.append(Command("src.train", alone, printed, {**place, "NODE_RANK": str(node)}))
    assert [run.wait() for run in runs] == [0, 0], [run.errors for run in runs]
    assert [run.output.count("appearance │") for run in runs] == [1, 0]
    (stage,) = (tmp_path / "outputs").rglob("appearance")
    videos = scored(stage)
    assert len(videos) == len(set(videos)) == 8


@pytest.mark.parametrize(
    ("variables", "overrides", "told"),
    [
        (
            {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "RANK": "0"},
            ["trainer.accelerator=cpu"],
            "torchrun started 2 processes on each of 1 nodes, but trainer.devices is 1",
        ),
        ({"LOCAL_RANK": "1"}, ON_TWO, "neither torchrun nor srun has started this process"),
        ({"MASTER_PORT": "1"}, [*ON_TWO, "trainer.num_nodes=2"], "MASTER_ADDR, NODE_RANK: start"),
        ({}, ["trainer.accelerator=cpu", "trainer.devices=2"], "trainer=ddp trainer.devices=2"),
        ({}, [*ON_TWO, "trainer.strategy=ddp_spawn"], "trainer.strategy=ddp_spawn on 2 devices"),
        ({}, [*ON_TWO, "trainer.strategy.broadcast_buffers=true"], "DDPStrategy on 2 devices"),
    ],
)
def test_processes_that_would_wait_for_others_are_refused(
    variables: dict[str, str],
    overrides: list[str],
    told: str,
    call: Callable[..., int],
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert call(train.main, *tiny, *overrides, f"paths.run_dir={tmp_path}") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_process_alone_speaks_whatever_rank_a_shell_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning takes it from RANK
    tell_lightning(None)
    assert own_rank() == 0


def test_all_ranks_wait_for_a_stage_that_another_job_trains(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """And none of them trains it again."""
    shared = tmp_path / "streams"
    options = (f"paths.streams_dir={shared}", "paths.run_dir=${paths.output_dir}/mine")
    with exclusive_lock(shared / "appearance" / ".lock"):
        run = start(tmp_path, tiny[-1], *options)
        waits = re.compile(
            f"{shared}/appearance is in use by process {os.getpid()} on .*waiting for"
        )
        wait_for(lambda: waits.search(run.output), 120)
        time.sleep(3 * RETRY_AFTER)
        assert run.runs
        own = arguments(tmp_path, tiny[-1], "paths.run_dir=${paths.output_dir}/its_own")
        alone = [override for override in own if override not in ON_TWO]
        run_experiment(compose_config("train", *alone, "trainer.accelerator=cpu"))
        stage = tmp_path / "outputs/its_own/appearance"
        for name in ("last.ckpt", "scores.csv", "stage.json"):
            shutil.copy(stage / name, shared / "appearance")
    assert run.wait(60) == 0, run.errors
    assert "stage appearance is finished" in run.output
    assert not list(shared.rglob("version_*"))


def test_a_signal_that_one_process_loses_while_it_starts_ends_it_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter loses one that comes within some imports; the others have ended by it."""
    monkeypatch.setattr(launch, "GRACE", 0.5)
    processes = [subprocess.Popen(["sleep", "300"]) for _ in range(2)]
    try:
        processes[1].terminate()
        processes[1].wait()
        assert launch._wait(processes, [signal.SIGTERM]) == [0, -signal.SIGTERM]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.skipif(
    signal.SIGINT not in heeded_signals(), reason="these tests were started to ignore SIGINT"
)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_ends_a_sweep_while_its_processes_start(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    # Started as a shell does: a server of processes ignores SIGINT, and they would do so, too.
    overrides = arguments(tmp_path, tiny[-1], "seed=3,4")
    command = [sys.executable, "-m", "src.train", *overrides, "-m"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        wait_for(lambda: len(children(run.pid)) == 2, 60)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 128 + signal.SIGINT
    (job,) = (tmp_path / "outputs/sweeps").glob("*/*/")
    assert json.loads((job / "run.json").read_text())["state"] == "stopped"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ["a process dies", "SIGTERM", "SIGKILL"])
def test_no_process_stays(how: str, tiny: tuple[str, ...], tmp_path: Path) -> None:
    epochs = ("trainer.max_epochs=200", "stages.appearance.max_epochs=200")
    run = start(tmp_path, tiny[-1], *epochs)
    checkpoint = tmp_path / "outputs/appearance_two_movers/split1_seed0/appearance/last.ckpt"
    wait_for(checkpoint.is_file, 120)
    ranks = children(run.pid)
    assert len(ranks) == 2
    if how == "a process dies":
        os.kill(ranks[1], signal.SIGKILL)
    else:
        os.kill(run.pid, getattr(signal, how))
    status = run.wait(60)
    assert status != 0
    if how == "a process dies":
        assert "process 1 of 2 ended with status -9" in run.errors
    if how == "SIGTERM":
        assert status == 128 + signal.SIGTERM
        assert run.errors.count("stopped by SIGTERM: rerun the same command") == 1
        assert "Traceback" not in run.errors
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
        if int(stat[1]) == parent and b"src.training.launch" in command:
            rank = next(e for e in environment if e.startswith(b"LOCAL_RANK="))
            found.append((int(rank.partition(b"=")[2]), int(process.name)))
    return [process for _, process in sorted(found)]
