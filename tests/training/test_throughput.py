"""The timing numbers that loggers get: of all steps, of all processes, of nothing else."""

import csv
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from src.data.dataset import VideoDataset
from src.models.modules import StreamModule
from src.training.pipeline import run_experiment
from src.training.throughput import Spent, Throughput
from tests.conftest import compose_config


class Watch(pl.Callback):
    """Keeps what throughput has found."""

    found: Throughput

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Watch.found = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]


def logged(folder: Path, name: str) -> list[tuple[int, float]]:
    with (folder / "motion" / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    return [(int(row["step"]), float(row[name])) for row in rows]


@pytest.mark.slow
def test_numbers_of_every_interval_are_logged(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that knows reading a clip (1 s), classifying (3 s) and validating (100 s).

    8 steps of 2 clips in an epoch, 2 steps to an update, logged at every third update of all.
    """
    now = 0.0

    def takes(seconds: float, owner: type, name: str) -> None:
        before = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            nonlocal now
            now += seconds
            return before(*arguments)

        monkeypatch.setattr(owner, name, call)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    takes(1, VideoDataset, "__getitem__")
    takes(3, StreamModule, "classify")
    takes(100, StreamModule, "on_validation_model_eval")
    run_experiment(
        compose_config(
            "train",
            *tiny,
            "experiment=motion_two_movers",
            "stages.motion.effective_batch_size=4",
            "stages.motion.data.batch_size=2",
            "trainer.max_epochs=2",
            "trainer.log_every_n_steps=3",
            "+trainer.val_check_interval=4",  # in the middle of an epoch, too
            "~callbacks.non_finite_guard",
            f"+callbacks.watch._target_={__name__}.Watch",
            f"paths.run_dir={tmp_path}",
        )
    )
    for name, value in (
        ("time/data", 2.0),
        ("time/step", 3.0),
        ("time/data_share", 0.4),
        ("throughput/clips_per_second", 0.4),
        ("data/replaced_videos", 0.0),
    ):
        steps, values = zip(*logged(tmp_path, name), strict=True)
        assert steps == (2, 5)
        assert values == pytest.approx((value, value)), name
    memory = [gib for _, gib in logged(tmp_path, "memory/peak_gib")]
    assert 0.05 < memory[0] <= memory[1] < 64
    assert Watch.found.stage == Spent(16, 32, 80.0, 32.0)


def test_sums() -> None:
    both = Spent(1, 4, 2.0, 0.5) + Spent(1, 4, 2.0, 1.5)
    assert both == Spent(2, 8, 4.0, 2.0)
    assert (both.clips_per_second, both.data_share) == (2.0, 0.5)
    assert Spent().clips_per_second == Spent().data_share == 0
