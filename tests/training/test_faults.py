"""Videos that cannot be read in training and in the test, on a tiny dataset that is broken."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from src.data.datamodule import VideoDataModule
from src.data.splits import Video
from src.data.two_movers import read_two_movers
from src.models.build import build_datamodule
from src.training.pipeline import run_experiment
from src.training.plan import make_plan, resolve
from tests.conftest import TINY, compose_config

SHARED = ("experiment=appearance_two_movers", "data.max_broken=0.2")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


@pytest.fixture
def data(tiny: tuple[str, ...], tmp_path: Path) -> Path:
    """A dataset of its own, whole."""
    read_two_movers(root := tiny[-1].partition("=")[2], 16, 8, 0)
    return Path(shutil.copytree(root, tmp_path / "two_movers"))


def videos(data: Path, part: str) -> list[Video]:
    return list(getattr(read_two_movers(str(data), 16, 8, 0), part))


def config(data: Path, run: Path, *overrides: str) -> Any:
    places = (f"data.dataset.root={data}", f"paths.run_dir={run}")
    return compose_config("train", *TINY, *SHARED, *places, *overrides)


def record_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "appearance" / "stage.json").read_text()))


def set_up(data: Path, *overrides: str) -> VideoDataModule:
    plan = make_plan(resolve(config(data, data, *overrides)), "appearance")
    module = build_datamodule(plan)
    module.prepare_data()
    module.setup()
    return module


def test_training_goes_on_without_broken_videos(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cut, blank, *_ = videos(data, "train")
    truncate(cut.path)
    empty(blank.path)
    run_experiment(config(data, tmp_path / "run", "trainer.max_epochs=2"))
    (faults,) = record_of(tmp_path / "run")["faults"]
    assert (set(faults["videos"]), faults["of"]) == ({cut.name, blank.name}, 16)
    assert "cannot be decoded" in faults["videos"][blank.name]
    for name in (cut.name, blank.name):
        assert sum(f"video {name}: " in line for line in caplog.messages) == 1  # of two passes
    printed = capsys.readouterr().out
    assert "appearance: 2 of 16 training videos could not be read and were replaced: " in printed
    stage = tmp_path / "run" / "appearance"
    assert "2.0" in (stage / "csv" / "version_0" / "metrics.csv").read_text()
    assert blank.name in (stage / "csv" / "version_0" / "hparams.yaml").read_text()
    assert blank.name in (stage / "unreadable.txt").read_text()
