"""`hydra/launcher=local`: whatever ends a job or the sweep, its command ends in the same results.

A sweep of two seeds at a time is compared with one that is disturbed.
"""

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.processes import Command, wait_for

LONG = ("trainer.max_epochs=12", "stages.appearance.max_epochs=12", "checkpoint_minutes=null")
LOCAL = ("hydra/launcher=local", "hydra.launcher.n_jobs=2", "experiment=appearance_two_movers")
pytestmark = pytest.mark.slow


def start(folder: Path, data: str, seeds: str) -> Command:
    """Start a sweep that writes into a folder."""
    given = [one for one in TINY if "max_epochs" not in one]
    places = (data, f"paths.output_dir={folder / 'outputs'}")
    arguments = ["-m", *given, *LOCAL, *LONG, *places, f"seed={seeds}"]
    printed = folder / f"seeds_{seeds}"
    printed.mkdir(parents=True)
    return Command("src.train", arguments, printed, {"COLUMNS": "200"})


def scores(output: Path) -> dict[str, str]:
    """Of every finished job."""
    files = output.glob("outputs/sweeps/*/*/appearance/scores.csv")
    return {file.parents[1].name: file.read_text() for file in files}


def states(output: Path) -> dict[str, str]:
    (table,) = output.glob("outputs/sweeps/*/sweep.csv")
    with table.open(newline="") as file:
        return {row["seed"]: row["state"] for row in csv.DictReader(file)}


def begun(output: Path, seed: int) -> bool:
    return any(output.glob(f"outputs/sweeps/*/seed-{seed}/appearance/last.ckpt"))


def check_shown(sweep: Command) -> None:
    for seed in "12":
        (line,) = [one for one in sweep.output.splitlines() if one.startswith(f"seed-{seed}: ")]
        assert "appearance top-1" in line
    assert "mean ± standard deviation" in sweep.output
    assert "epoch 12/12" not in sweep.output + sweep.errors  # that is in the jobs' logs
    assert "Traceback" not in sweep.errors


def test_whatever_ends_a_job_or_the_sweep_the_same_command_gives_the_same_results(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    sweep = start(undisturbed, tiny[-1], "1,2")
    assert sweep.wait() == 0, sweep.errors
    check_shown(sweep)
    assert states(undisturbed) == {"1": "done", "2": "done"}
    for log in undisturbed.glob("outputs/sweeps/*/*/job.log"):
        assert "appearance: epoch 12/12" in log.read_text()

    # One job is killed, and then Ctrl-C ends the sweep: the other saves.
    sweep = start(disturbed, tiny[-1], "1,2")
    wait_for(lambda: begun(disturbed, 1) and begun(disturbed, 2))
    (record,) = disturbed.glob("outputs/sweeps/*/seed-1/run.json")
    os.kill(json.loads(record.read_text())["process"], signal.SIGKILL)
    os.kill(sweep.pid, signal.SIGINT)
    assert sweep.wait(60) == 130, sweep.errors
    assert "Traceback" not in sweep.errors
    assert "seed-1: failed: its process ended by signal 9" in sweep.output
    killed = {"1": "failed: its process ended by signal 9"}
    assert states(disturbed) in (killed | {"2": "stopped"}, killed | {"2": "done"})

    # The same command, extended by a value with which a job fails: alone, with one line at once.
    sweep = start(disturbed, tiny[-1], "1,2,-1")
    assert sweep.wait() == 1
    assert "error: seed--1 failed: seed=-1: needs an integer" in sweep.errors.splitlines()[-1]
    check_shown(sweep)
    after = states(disturbed)
    assert after.pop("-1").startswith("failed: seed=-1: needs an integer")
    assert after["1"] == "resumed"
    assert scores(disturbed) == scores(undisturbed)
    assert len(scores(disturbed)) == 2
