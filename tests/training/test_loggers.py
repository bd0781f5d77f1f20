"""Loggers cannot fail the run that they observe, or are found out before it begins."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import wandb
from pytorch_lightning.loggers import CSVLogger, Logger

from src import train
from src.evaluation.samples import save_samples
from src.reporting.report import make_report
from src.training import pipeline
from src.training.loggers import Guarded, Loggers, guarded
from src.training.pipeline import run_experiment
from src.training.wandb_run import LONGEST, artifact_name
from src.utils.errors import UserError
from tests.conftest import compose_config
from tests.training.wandb_file import OfflineRun

SHORT = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "num_sample_videos=1")
STREAMS = ("run_stages=[appearance,motion]", *SHORT)


class Failing(Logger):
    """Has room for some calls' numbers, and is not there for some stages."""

    made: list[str] = []  # noqa: RUF012

    def __init__(self, save_dir: str, room: float = 3, without: str = "") -> None:
        stage = Path(save_dir).name
        if stage == without:
            raise ConnectionError("nobody answers")
        self.made.append(stage)
        self.room, self.calls = room, 0

    name = version = "failing"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.calls += 1
        if self.calls > self.room:
            raise OSError("the memory\nis full")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(Failing, "made", [])


def run(*overrides: str) -> None:
    run_experiment(compose_config("train", *overrides))


def drops(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of loggers that failed."""
    return [line for line in caplog.messages if line.startswith("logger ")]


def is_recorded(stage: Path) -> bool:
    return bool(json.loads((stage / "stage.json").read_text())["accuracy"]["videos"])


@pytest.mark.slow
def test_a_logger_that_fails_in_training_is_dropped_for_the_rest_of_the_run(
    tiny: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = f"+logger.bad._target_={__name__}.Failing"
    run(*tiny, *STREAMS, bad, f"paths.run_dir={tmp_path}")
    assert Failing.made == ["appearance"]
    assert drops(caplog) == [
        "logger bad has failed, the run continues without it: OSError: the memory is full"
    ]
    for stage in ("appearance", "motion"):
        assert is_recorded(tmp_path / stage)
        with (tmp_path / stage / "csv" / "version_0" / "metrics.csv").open() as file:
            assert any(row.get("test/video/top1") for row in csv.DictReader(file))


@pytest.mark.slow
def test_a_logger_that_cannot_be_opened_for_a_later_stage_is_dropped(
    tiny: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = (f"+logger.bad._target_={__name__}.Failing", "+logger.bad.without=motion")
    run(*tiny, *STREAMS, *bad, "+logger.bad.room=inf", f"paths.run_dir={tmp_path}")
    (line,) = drops(caplog)
    assert "nobody answers" in line
    assert Failing.made == ["appearance"]
    assert is_recorded(tmp_path / "motion")


@pytest.mark.parametrize(
    "method",
    ["log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint"],
)
def test_no_call_of_a_logger_fails(method: str, tmp_path: Path) -> None:
    class Broken(CSVLogger):
        pass

    def fail(*_: Any) -> None:
        calls.append(method)
        raise RuntimeError("broken")

    calls: list[str] = []
    setattr(Broken, method, fail)
    failed: set[str] = set()
    logger = guarded(Broken(tmp_path), "broken", failed)
    assert isinstance(logger, CSVLogger)
    for _ in range(2):
        getattr(logger, method)({})
    logger.attempt(fail, logger)
    assert calls == [method]
    assert failed == {"broken"}


def test_a_stop_by_hand_is_no_failure_of_a_logger(tmp_path: Path) -> None:
    def stop(logger: Logger) -> None:
        raise KeyboardInterrupt

    logger = guarded(CSVLogger(tmp_path), "csv", set())
    with pytest.raises(KeyboardInterrupt):
        logger.attempt(stop, logger)
    assert not logger.failed


@pytest.mark.slow
def test_wandb_without_a_place_for_its_files_is_refused_before_data_is_read(
    tiny: tuple[str, ...], tmp_path: Path, call: Callable[..., int], capfd: Any, monkeypatch: Any
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    data = f"data.dataset.root={tmp_path / 'data'}"
    overrides = ("logger=wandb", data, f"paths.run_dir={tmp_path / 'run'}")
    assert call(train.main, *tiny, *overrides) == 1
    (line,) = [one for one in capfd.readouterr().err.splitlines() if one.startswith("error")]
    assert line.startswith(f"error: logger.wandb: W&B cannot write to {tmp_path / 'home'}")
    assert "set WANDB_DATA_DIR" in line
    assert line.endswith("; logger.wandb=null leaves it out")
    assert not (tmp_path / "data").exists()
    assert wandb.run is None


def opening(folder: Path, *overrides: str) -> AbstractContextManager[Sequence[Logger]]:
    cfg = compose_config("train", *overrides)
    return Loggers(cfg.logger).of_stage(folder, {})


def test_a_csv_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """W&B, which could be opened, is closed again."""
    (tmp_path / "csv").touch()
    mistake = pytest.raises(
        UserError, match=r"^logger\.csv: .*csv.*; logger\.csv=null leaves it out"
    )
    with mistake, opening(tmp_path, "logger=[wandb,csv]"):
        pass
    assert (tmp_path / "wandb").is_dir()
    assert wandb.run is None


@pytest.mark.slow
def test_a_run_of_wandb_that_cannot_be_ended_does_not_get_into_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("lost")

    for run in ("first", "second"):  # jobs of a sweep, in one process
        (tmp_path / run).mkdir()
        with monkeypatch.context() as patch, opening(tmp_path / run, "logger=wandb"):
            patch.setattr(wandb.Run, "finish", fail)
        assert wandb.run is None
    assert len(drops(caplog)) == 2
    ids = {(tmp_path / run / "wandb_id").read_text() for run in ("first", "second")}
    written = {file.stem for file in tmp_path.glob("*/wandb/offline-run-*/*.wandb")}
    assert written == {f"run-{one}" for one in ids}


@pytest.mark.parametrize("project", ["a/b", "a:b", "a" * 129])
def test_a_project_that_wandb_cannot_have_is_refused(project: str, tmp_path: Path) -> None:
    mistake = pytest.raises(UserError, match=r"^logger\.wandb: project=a.* at most 128 characters")
    with mistake, opening(tmp_path, "logger=wandb", f'logger.wandb.project="{project}"'):
        pass


@pytest.mark.slow
def test_wandb_gets_names_that_it_can_have(tiny: tuple[str, ...], tmp_path: Path) -> None:
    overrides = ("name=grp/exp 1", "run_stages=appearance", "logger=[csv,wandb]", *SHORT)
    wandb_own = ("logger.wandb.entity=team", "logger.wandb.name=mine", "logger.wandb.tags=[a b]")
    cfg = compose_config("train", *tiny, *overrides, *wandb_own, f"paths.output_dir={tmp_path}")
    run_experiment(cfg)
    stage = tmp_path / "grp" / "exp 1" / "split1_seed0" / "appearance"
    assert is_recorded(stage)
    wandb_run = OfflineRun(stage)
    about = wandb_run.about
    assert (about.entity, about.project) == ("team", "st-resnet")
    assert (about.run_group, about.display_name) == ("grp/exp 1", "mine/appearance")
    assert list(about.tags) == ["a b"]
    name = "grp_exp_1-appearance-split1-seed0"
    assert {name, f"{name}-scores"} <= set(wandb_run.artifacts)
    assert not (stage / "tensorboard").exists()


def test_long_names_of_artifacts_are_told_apart() -> None:
    one, other = (artifact_name("x/" * 200 + end) for end in "ab")
    assert len(one) == len(other) == LONGEST
    assert one != other
    wandb.Artifact(one, type="model")


@pytest.mark.slow
def test_what_is_shown_of_a_test_cannot_fail_it(
    tiny: tuple[str, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The place for W&B's files is gone after the test; then W&B is closed and left out."""
    place, recorded = tmp_path / "wandb", []
    monkeypatch.setenv("WANDB_DATA_DIR", str(place))

    def lose(*arguments: Any) -> Any:
        recorded.append(is_recorded(arguments[0].parent))
        if place.is_dir():
            shutil.rmtree(place)
            place.touch()
            return save_samples(*arguments)
        raise RuntimeError("no picture")

    monkeypatch.setattr(pipeline, "save_samples", lose)
    run(*tiny, *STREAMS, "logger=wandb", f"paths.run_dir={tmp_path / 'run'}")
    assert recorded == [True, True]
    (line,) = drops(caplog)
    assert line.startswith("logger wandb has failed, the run continues without it: ")
    assert "stage motion is finished, but not all shown: no picture" in caplog.messages
    assert OfflineRun(tmp_path / "run" / "appearance").exit_code == 0
    assert wandb.run is None
    assert not (tmp_path / "run" / "motion" / "wandb").exists()


@pytest.mark.slow
def test_a_run_can_be_without_loggers_and_callbacks(
    tiny: tuple[str, ...], tmp_path: Path, call: Callable[..., int]
) -> None:
    overrides = ("run_stages=appearance", "logger=null", "callbacks=null")
    run = f"paths.run_dir={tmp_path / 'run'}"
    assert call(train.main, *tiny, *SHORT, *overrides, run) == 0
    assert not {"csv", "tensorboard", "wandb"} & {
        path.name for path in (tmp_path / "run" / "appearance").iterdir()
    }
    make_report([str(tmp_path / "run")], str(tmp_path))
    assert "no curves: there is no metrics.csv" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("choice", "loggers"),
    [
        ("logger=none", set()),
        ("logger=null", set()),
        ("logger=csv", {"csv"}),
        ("logger=[tensorboard,wandb]", {"tensorboard", "wandb"}),
    ],
)
def test_choices_of_loggers(choice: str, loggers: set[str]) -> None:
    for experiment in ("st_resnet_two_movers", "st_resnet_hmdb51"):
        assert set(compose_config("train", f"experiment={experiment}", choice).logger) == loggers


def test_a_logger_that_is_null_is_left_out(tmp_path: Path) -> None:
    with opening(tmp_path, "logger.tensorboard=null") as loggers:
        assert [(type(one).__name__, isinstance(one, Guarded)) for one in loggers] == [
            ("CSVLogger", True)
        ]
