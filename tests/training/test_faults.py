"""Videos that cannot be read, in training and in the test, on a copy of the tiny dataset."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.data.datamodule import VideoDataModule, VideoReading
from src.data.faults import VideoErrors
from src.data.two_movers import read_two_movers
from src.data.videos import Video
from src.evaluate import main as evaluate
from src.evaluation.fusion import fuse
from src.evaluation.scores import VideoScores, video_accuracies
from src.experiment.build import build_datamodule
from src.experiment.config import stage_config
from src.reporting.report import make_report
from src.training.pipeline import run_experiment
from src.training.unreadable import UnreadableVideos
from src.utils.errors import UserError
from tests.builders import CLIPS
from tests.conftest import TINY, compose_config
from tests.processes import Command

TRAIN, TEST = 16, 8


@pytest.fixture
def data(tiny: tuple[str, ...], tmp_path: Path) -> Path:
    """The dataset whole, to be broken."""
    made = tiny[-1].partition("=")[2]
    read_two_movers(made, TRAIN, TEST, 0)
    return Path(shutil.copytree(made, tmp_path / "two_movers"))


def videos(data: Path, part: str) -> list[Video]:
    return list(getattr(read_two_movers(str(data), TRAIN, TEST, 0), part))


def truncate(video: Video) -> None:
    video.path.write_bytes(video.path.read_bytes()[:200])


def overrides(data: Path, run: Path, *more: str) -> list[str]:
    places = (f"data.dataset.root={data}", f"paths.run_dir={run}")
    return [
        *TINY,
        "experiment=appearance_two_movers",
        "data.videos.max_unreadable_fraction=0.2",
        *places,
        *more,
    ]


def train(data: Path, run: Path, *more: str) -> dict[str, Any]:
    """Train the stage, and give its record."""
    run_experiment(compose_config("train", *overrides(data, run, *more)))
    return dict(json.loads((run / "appearance" / "stage.json").read_text()))


def set_up(data: Path, *more: str) -> VideoDataModule:
    config = compose_config("train", *overrides(data, data, *more))
    module = build_datamodule(stage_config(config, "appearance"))
    module.prepare_data()
    module.setup()
    return module


@pytest.mark.slow
def test_training_goes_on_and_tells(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cut, blank, *_ = videos(data, "train")
    truncate(cut)
    blank.path.write_bytes(b"")
    record = train(data, tmp_path / "run", "trainer.max_epochs=2")
    (faults,) = record["faults"]
    assert (set(faults["videos"]), faults["of"]) == ({cut.name, blank.name}, TRAIN)
    assert "cannot be decoded" in faults["videos"][blank.name]
    for name in (cut.name, blank.name):
        assert sum(f"video {name}: " in line for line in caplog.messages) == 1  # of two epochs
    told = "2 of 16 training videos could not be read and were replaced: "
    assert f"appearance: {told}" in capsys.readouterr().out
    stage = tmp_path / "run" / "appearance"
    metrics = (stage / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    column = metrics[0].split(",").index("train/skipped_videos")
    assert {line.split(",")[column] for line in metrics[1:]} == {"", "2.0"}
    for file in ("unreadable.txt", "csv/version_0/hparams.yaml"):
        assert blank.name in (stage / file).read_text()
    make_report([str(tmp_path / "run")], str(tmp_path / "report"))
    report = (tmp_path / "report" / "report.html").read_text()
    assert told in report
    assert blank.name in report


def test_clips_are_the_same_whatever_the_workers(data: Path) -> None:
    """One video is broken, one vanishes after the lists have been checked."""
    module = set_up(data, "data.loader.timeout=240")
    gone, broken, *_ = module.videos.train
    gone.path.unlink()
    truncate(broken)
    epochs = []
    for workers in (0, 2):
        module.loader["num_workers"] = workers
        loader: Any = module.train_dataloader()
        loader.sampler.set_epoch(3)
        assert loader.dataset.time_limit == 120  # so that the loader does not give up before
        (batch,) = loader
        epochs.append(batch)
        assert set(loader.failed) == {gone.name, broken.name}
        assert "does not exist" in loader.failed[gone.name]
    assert len(epochs[0]["video"]) == TRAIN
    assert epochs[0]["video"] == epochs[1]["video"]
    assert torch.equal(epochs[0]["rgb"], epochs[1]["rgb"])


@pytest.mark.skipif(not CLIPS.is_dir(), reason="no real clips here")
def test_a_real_broken_clip_is_replaced(data: Path) -> None:
    module = set_up(data, "data.test.batch_size=1")
    bad = module.videos.train[3]
    shutil.copyfile(CLIPS / "corrupted.mp4", bad.path)
    batches = list(module.train_dataloader())
    assert list(module.errors.unreadable["train"]) == [bad.name]
    assert sum(len(batch["video"]) for batch in batches) == TRAIN


@pytest.mark.slow
def test_too_many_stop_the_run_with_their_list(data: Path, tmp_path: Path) -> None:
    broken = videos(data, "train")[:4]  # of 16, with a fifth allowed
    for video in broken:
        truncate(video)
    with pytest.raises(
        UserError, match=r"4 of 16 training .*max_unreadable_fraction=0\.2.*verify_data"
    ) as stop:
        train(data, tmp_path / "run")
    listed = (tmp_path / "run" / "appearance" / "unreadable.txt").read_text()
    for video in broken:
        assert video.name in str(stop.value)
        assert video.name in listed
    for video in broken[1:]:
        shutil.copyfile(videos(data, "train")[5].path, video.path)
    with pytest.raises(UserError, match=r"1 of 16 training .*max_unreadable_fraction=0 "):
        train(data, tmp_path / "strict", "data.videos.max_unreadable_fraction=0")


@pytest.mark.slow
def test_a_run_that_goes_on_still_knows(data: Path, tmp_path: Path) -> None:
    broken = videos(data, "train")[0]
    whole = broken.path.read_bytes()
    truncate(broken)
    train(data, tmp_path / "run")
    (tmp_path / "run" / "appearance" / "stage.json").unlink()
    broken.path.write_bytes(whole)
    record = train(data, tmp_path / "run", "trainer.max_epochs=2", "resume=force")
    assert [list(faults["videos"]) for faults in record["faults"]] == [[broken.name]]


@pytest.mark.slow
def test_a_test_video_is_an_error_or_wrong(
    data: Path,
    tmp_path: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All three: the run that trained, the test of its checkpoint, and the report."""
    run, stage = tmp_path / "run", tmp_path / "run" / "appearance"
    broken = videos(data, "test")[2:4]
    for video in broken:
        truncate(video)
    with pytest.raises(
        UserError, match=r"2 of 8 test videos cannot be read: .*missing=count_as_wrong"
    ) as e:
        train(data, run)
    assert all(video.name in str(e.value) for video in broken)
    checkpoint = stage / "last.ckpt"
    trained = checkpoint.read_bytes()

    record = train(
        data, run, "data.videos.missing=count_as_wrong"
    )  # the same command, which continues to the test
    assert checkpoint.read_bytes() == trained
    accuracy = record["accuracy"]
    assert (accuracy["videos"], accuracy["unreadable"]) == (TEST, 2)
    scores = VideoScores.load(stage / "scores.csv")
    unread = [name for name, lost in zip(scores.videos, scores.unreadable, strict=True) if lost]
    assert unread == sorted(video.name for video in broken)
    best = scores.scores.nan_to_num(-1).argmax(1)
    hits = (best == torch.tensor(scores.labels)) & ~scores.unreadable
    assert accuracy["top1"] == pytest.approx(100 * hits.double().mean().item())
    assert logged(stage, "test/video/top1") == pytest.approx(accuracy["top1"] / 100)
    out = capsys.readouterr().out
    told = "2 of 8 test videos could not be read and count as wrong: "
    assert f"appearance: {told}" in out
    assert "8 (2 unreadable)" in out

    fused = fuse([scores, replace(scores, scores=torch.zeros(TEST, 8))])
    assert video_accuracies(fused).unreadable == 2
    make_report([str(run)], str(tmp_path / "report"))
    report = (tmp_path / "report" / "report.html").read_text()
    assert "mean of logits; 2 of 8 videos counted as wrong" in report
    assert told in report

    broken[0].path.unlink()
    arguments = (f"ckpt_path={checkpoint}", f"output={tmp_path / 'scores.csv'}")
    assert call(evaluate, *arguments, "+data.videos.missing=count_as_wrong") == 0
    assert told in capsys.readouterr().out
    assert (tmp_path / "scores.csv").read_text() == (stage / "scores.csv").read_text()
    assert call(evaluate, *arguments, "+data.videos.missing=skip") == 1  # one is there, and broken
    assert "1 of 8 test videos cannot be read" in capsys.readouterr().err
    broken[1].path.unlink()
    assert call(evaluate, *arguments, "+data.videos.missing=skip") == 0
    assert "2 of 8 test videos are missing and were skipped: " in capsys.readouterr().out
    assert len(VideoScores.load(tmp_path / "scores.csv").videos) == TEST - 2


def logged(stage: Path, key: str) -> float:
    versions = sorted((stage / "csv").iterdir())  # one for each start
    metrics = (versions[-1] / "metrics.csv").read_text().splitlines()
    column = metrics[0].split(",").index(key)
    return float(next(filter(None, (line.split(",")[column] for line in metrics[1:]))))


@pytest.mark.slow
def test_ranks_agree(data: Path, tmp_path: Path) -> None:
    """Two processes train to the end, and stop together at the test; one continues with it."""
    broken, lost = videos(data, "train")[:3], videos(data, "test")[1]
    for video in (*broken, lost):
        truncate(video)
    batches = ("stages.appearance.effective_batch_size=8", "stages.appearance.data.batch_size=4")
    two = (
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "data.loader.num_workers=1",
    )
    stopped = Command("src.train", overrides(data, tmp_path, *batches, *two), tmp_path)
    assert stopped.wait() == 1
    (line,) = [one for one in stopped.errors.splitlines() if one.startswith("error: ")]
    assert f"1 of 8 test videos cannot be read: {lost.name}" in line
    assert "Traceback" not in stopped.errors

    record = train(data, tmp_path, *batches, "data.videos.missing=count_as_wrong")
    training, testing = record["faults"]
    assert set(training["videos"]) == {video.name for video in broken}
    assert list(testing["videos"]) == [lost.name]


@pytest.mark.parametrize(("share", "stops"), [(0.57, False), (0.56, True)])
def test_as_many_as_are_let_pass_are_let_pass(share: float, stops: bool, tmp_path: Path) -> None:
    """57 of 100 are 0.57 of them, although 0.57 * 100 is less than 57."""
    errors = VideoErrors()
    errors.unreadable["train"] = {f"v{number}": "a reason" for number in range(57)}
    errors.listed["train"] = 100
    data: Any = SimpleNamespace(
        errors=errors,
        videos=SimpleNamespace(train=range(100)),
        reading=VideoReading(max_unreadable_fraction=share),
    )
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[])
    module: Any = SimpleNamespace(log=lambda *_, **__: None)
    callback = UnreadableVideos(data, tmp_path / "unreadable.txt")
    with pytest.raises(UserError, match="57 of 100") if stops else nullcontext():
        callback.on_train_epoch_end(trainer, module)


def test_ranks_stop_together(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank without a broken video stops for those of another."""
    theirs = {"train": {f"v{number}": "cannot be decoded" for number in range(4)}, "val": {}}
    monkeypatch.setattr("src.data.faults.of_all_ranks", lambda mine: [theirs, mine])
    with pytest.raises(
        UserError, match=r"4 of 16 training .* v1, v2, v3; all are in .*max_unreadable_fraction"
    ):
        train(data, tmp_path)
