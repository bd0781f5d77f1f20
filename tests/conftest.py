"""A tiny two_movers and a run of all stages on it, made once for all tests."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.experiment.compose import compose_config as compose_config
from src.training.pipeline import run_experiment

# The real configuration, made small: 16 clips, narrow streams, one epoch, no worker processes.
TINY = (
    "data.dataset.num_train=16",
    "data.dataset.num_test=8",
    "data.loader.num_workers=0",
    "data.test.batch_size=4",
    "model.backbone.width=4",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
)

# One thread here and in all that tests start: more only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def repeatable() -> None:
    """The same random numbers in every test."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Overrides for a tiny experiment on data that is made once."""
    root = tmp_path_factory.mktemp("data") / "two_movers"
    return (*TINY, f"data.dataset.root={root}")


@pytest.fixture(scope="session")
def finished_run(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of all four stages; tests leave it as it is."""
    output = tmp_path_factory.mktemp("outputs")
    cfg = compose_config("train", *tiny, f"paths.output_dir={output}")
    run_experiment(cfg)
    return Path(cfg.paths.run_dir)


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """The same, for tests that change it."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run an entry point with arguments; its exit status."""

    def run(main: Callable[[], None], *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run
