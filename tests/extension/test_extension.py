"""A network and a stage of one's own, by one file and one config, with nothing changed in src/."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

import src.models
from src import evaluate, train

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def three_streams(streams: Path, output: Path, tiny: tuple[str, ...]) -> list[str]:
    """Arguments that train the joint stage from the streams of another run."""
    return [
        f"--config-dir={HERE / 'conf'}",
        "experiment=three_streams",
        *tiny,
        f"paths.output_dir={output}",
        f"paths.streams_dir={streams}",
    ]


def test_one_file_and_one_config_are_a_model(
    finished_run: Path, tiny: tuple[str, ...], tmp_path: Path, call: Callable[..., int]
) -> None:
    assert call(train.main, *three_streams(finished_run, tmp_path, tiny)) == 0
    joint = tmp_path / "three_streams" / "split1_seed0" / "joint"
    rows = []
    for stream in ("appearance", "motion", "change"):
        with (joint / f"scores_{stream}.csv").open() as file:
            rows.append(list(csv.reader(file)))
    assert len(rows[2]) == 1 + 8
    assert rows[2] != rows[0]


def test_in_a_room_of_the_project_its_checkpoints_are_trusted(
    finished_run: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    call: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Elsewhere they are refused, in one line; in src/models they need to be named nowhere."""
    on_cpu = ["trainer.accelerator=cpu", "+data.loader.num_workers=0"]
    arguments = three_streams(finished_run, tmp_path, tiny)
    checkpoint = "three_streams/split1_seed0/joint/last.ckpt"
    assert call(train.main, *arguments) == 0
    assert call(evaluate.main, f"ckpt_path={tmp_path / checkpoint}", *on_cpu) == 1
    error = "asks to call tests.extension.three_streams.ThreeStreams, which is not of this project"
    assert error in capfd.readouterr().err

    # As if the file lay there.
    monkeypatch.setattr(src.models, "__path__", [*src.models.__path__, str(HERE)])
    moved = [
        "model.net._target_=src.models.three_streams.ThreeStreams",
        "stages.joint.module._target_=src.models.three_streams.ThreeStreamModule",
        f"paths.run_dir={tmp_path / 'moved'}",
    ]
    assert call(train.main, *arguments, *moved) == 0
    assert "will refuse" not in capfd.readouterr().out
    assert call(evaluate.main, f"ckpt_path={tmp_path / 'moved/joint/last.ckpt'}", *on_cpu) == 0
