"""`hydra/launcher=local`: whatever ends a job or the sweep, its command ends in the same results.

A sweep of three seeds, two at a time, is compared with one that is disturbed twice.
"""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.processes import wait_for

ROOT = Path(__file__).parents[2]
LONG = ("trainer.max_epochs=4", "stages.appearance.max_epochs=4", "checkpoint_minutes=null")
LOCAL = ("hydra/launcher=local", "hydra.launcher.n_jobs=2", "experiment=appearance_two_movers")
pytestmark = pytest.mark.slow


def command(output: Path, data: str, *overrides: str) -> list[str]:
    given = [one for one in TINY if "max_epochs" not in one]
    places = (data, f"paths.output_dir={output}")
    return [sys.executable, "-m", "src.train", "-m", *given, *LOCAL, *LONG, *places, *overrides]


def start(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def scores(output: Path) -> dict[str, str]:
    """Of every finished job."""
    files = output.glob("sweeps/*/*/appearance/scores.csv")
    return {file.parents[1].name: file.read_text() for file in files}


def states(output: Path) -> dict[str, str]:
    (table,) = output.glob("sweeps/*/sweep.csv")
    with table.open(newline="") as file:
        return {row["seed"]: row["state"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def data(tiny: tuple[str, ...], finished_run: Path) -> str:
    """The data, which are there by now."""
    return tiny[-1]


@pytest.fixture(scope="module")
def undisturbed(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    sweep = start(command(output, data, "seed=1,2,3"))
    shown, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, errors
    for seed in "123":
        (line,) = [one for one in shown.splitlines() if one.startswith(f"seed-{seed}: ")]
        assert "appearance top-1" in line
        assert ", done, " in line
    assert "mean ± standard deviation" in shown
    assert "epoch" not in shown.partition("top-1 of every job")[0]  # that is in the jobs' logs
    (log,) = output.glob("sweeps/*/seed-2/job.log")
    assert "appearance: epoch 4/4" in log.read_text()
    return output


def begun(output: Path, seed: int) -> bool:
    return any(output.glob(f"sweeps/*/seed-{seed}/appearance/last.ckpt"))


def test_a_killed_job_fails_alone_and_is_resumed(
    undisturbed: Path, data: str, tmp_path: Path
) -> None:
    arguments = command(tmp_path, data, "seed=1,2,3")
    sweep = start(arguments)
    wait_for(lambda: begun(tmp_path, 1), 120)
    (record,) = tmp_path.glob("sweeps/*/seed-1/run.json")
    os.kill(json.loads(record.read_text())["process"], signal.SIGKILL)
    shown, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert "error: seed-1 failed: its process ended by signal 9" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert states(tmp_path) == {
        **{"1": "failed: its process ended by signal 9", "2": "done", "3": "done"}
    }
    assert "seed-1: failed: its process ended by signal 9" in shown
    again = start(arguments)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert states(tmp_path) == {"1": "resumed", "2": "done", "3": "done"}
    assert scores(tmp_path) == scores(undisturbed)


def test_ctrl_c_saves_and_ends_all_jobs_and_the_same_command_resumes(
    undisturbed: Path, data: str, tmp_path: Path
) -> None:
    arguments = command(tmp_path, data, "seed=1,2,3")
    sweep = start(arguments)
    wait_for(lambda: begun(tmp_path, 1) and begun(tmp_path, 2), 120)
    sweep.send_signal(signal.SIGINT)
    sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    records = tmp_path.glob("sweeps/*/*/run.json")
    assert {json.loads(file.read_text())["state"] for file in records} <= {"stopped", "done"}
    assert not any(begun(tmp_path, seed) for seed in (3,))
    # A sweep that is extended by a value finds the jobs that it has had.
    extended = start(command(tmp_path, data, "seed=1,2,3"))
    _, errors = extended.communicate(timeout=300)
    assert extended.returncode == 0, errors
    assert scores(tmp_path) == scores(undisturbed)


def test_a_finished_sweep_shows_its_table_and_an_extended_one_trains_the_new(
    undisturbed: Path, data: str
) -> None:
    before = scores(undisturbed)
    extended = start(command(undisturbed, data, "seed=1,2,3,-1"))
    shown, errors = extended.communicate(timeout=300)
    assert extended.returncode == 1
    assert "error: seed--1 failed: seed=-1: needs an integer" in errors.splitlines()[-1]
    assert states(undisturbed)["2"] == "done"
    assert states(undisturbed)["-1"].startswith("failed: seed=-1: needs an integer")
    assert scores(undisturbed) == before
    assert "top-1 of every job" in shown
