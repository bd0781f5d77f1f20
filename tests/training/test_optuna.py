"""A search by Optuna: each trial is one job of two processes, and goes by its result."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.reporting.collect import collect
from tests.conftest import TINY

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")


def test_trials_on_two_processes_are_told_apart_by_their_results(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "src.train", "-m", "experiment=appearance_two_movers", *TINY]
    command += ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    command += ["stages.appearance.batch_size=8", "stages.appearance.data.batch_size=4"]
    command += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.seed=0"]
    command += ["hydra.sweeper.direction=maximize", "hydra.sweeper.n_jobs=1"]
    command += ["stages.appearance.module.schedule.lr=interval(0.01,0.1)"]
    command += [f"data.dataset.root={tmp_path / 'data'}", f"paths.output_dir={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sweeps = tmp_path / "out" / "sweeps"
    found: Any = OmegaConf.load(sweeps / "optimization_results.yaml")
    records = collect([str(sweeps)]).runs
    assert len(records) == 2
    rates = {
        each for record in records for each in record.overrides or () if "schedule.lr=" in each
    }
    assert len(rates) == 2  # each trial once, with its own
    assert found["best_value"] == max(record.accuracy.top1 for record in records)
