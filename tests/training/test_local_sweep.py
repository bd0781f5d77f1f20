"""`hydra/launcher=local`: whatever ends a job or the sweep, its command ends in the same results.

A sweep of two seeds at a time is compared with one that is disturbed.
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
LONG = ("trainer.max_epochs=12", "stages.appearance.max_epochs=12", "checkpoint_minutes=null")
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


def begun(output: Path, seed: int) -> bool:
    return any(output.glob(f"sweeps/*/seed-{seed}/appearance/last.ckpt"))


def check_shown(shown: str, errors: str) -> None:
    for seed in "12":
        (line,) = [one for one in shown.splitlines() if one.startswith(f"seed-{seed}: ")]
        assert "appearance top-1" in line
    assert "mean ± standard deviation" in shown
    assert "epoch 12/12" not in shown + errors  # that is in the jobs' logs


def test_whatever_ends_a_job_or_the_sweep_the_same_command_gives_the_same_results(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    sweep = start(command(undisturbed, tiny[-1], "seed=1,2"))
    shown, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, errors
    check_shown(shown, errors)
    assert states(undisturbed) == {"1": "done", "2": "done"}
    for log in undisturbed.glob("sweeps/*/*/job.log"):
        assert "appearance: epoch 12/12" in log.read_text()

    # One job is killed, and then Ctrl-C ends the sweep: the other saves.
    sweep = start(command(disturbed, tiny[-1], "seed=1,2"))
    wait_for(lambda: begun(disturbed, 1) and begun(disturbed, 2))
    (record,) = disturbed.glob("sweeps/*/seed-1/run.json")
    os.kill(json.loads(record.read_text())["process"], signal.SIGKILL)
    sweep.send_signal(signal.SIGINT)
    shown, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, errors
    assert "Traceback" not in errors
    assert "seed-1: failed: its process ended by signal 9" in shown
    killed = {"1": "failed: its process ended by signal 9"}
    assert states(disturbed) in (killed | {"2": "stopped"}, killed | {"2": "done"})

    # The same command, extended by a value with which a job fails: alone, with one line at once.
    sweep = start(command(disturbed, tiny[-1], "seed=1,2,-1"))
    shown, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 1
    assert "error: seed--1 failed: seed=-1: needs an integer" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    check_shown(shown, errors)
    after = states(disturbed)
    assert after.pop("-1").startswith("failed: seed=-1: needs an integer")
    assert after["1"] == "resumed"
    assert scores(disturbed) == scores(undisturbed)
    assert len(scores(disturbed)) == 2
