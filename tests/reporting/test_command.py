"""The command as a user types it, after a training with overrides."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src import __version__, report, train

Call = Callable[..., int]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_training_records_what_the_report_tells(
    call: Call, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    chosen = ("experiment=motion_two_movers", "seed=3", "trainer.limit_train_batches=1")
    assert call(train.main, *tiny, *chosen) == 0
    place = Path("outputs") / "motion_two_movers" / "split1_seed3" / "motion"
    record = json.loads((place / "stage.json").read_text())
    assert record["overrides"] == [*tiny, *chosen]
    config = record["config"]
    assert (config["stage"], config["name"]) == ("motion", "motion_two_movers")
    assert (config["seed"], config["data"]["split"]) == (3, 1)
    assert (record["version"], record["streams"]) == (__version__, {})
    assert record["flow"]["algorithm"] == "dis"
    assert call(report.main, "runs=[outputs,out*]", "output=table") == 0
    with (tmp_path / "table" / "report.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["command"].startswith("python -m src.train data.dataset.num_train=16 ")
    assert row["command"].endswith(" seed=3 trainer.limit_train_batches=1")
    assert (row["directory"], row["seed"]) == (str(place), "3")
    assert {path.name for path in (tmp_path / "table").iterdir()} == {"report.csv", "report.html"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["runs=gone"], "runs=gone does not exist"),
        (["runs=.", "baseline=best"], "baseline=best is in no row's name"),
        (["runs=.", "output=file/folder"], "output=file/folder cannot be written to"),
        (["where=."], "where"),
    ],
)
def test_mistake_is_one_line(
    arguments: list[str], named: str, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert call(report.main, *arguments) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
