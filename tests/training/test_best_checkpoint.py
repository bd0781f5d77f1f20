"""The best epoch by validation is kept, tested and started from; early stopping ends a stage."""

import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch

from src.evaluation.evaluate import evaluate_checkpoint
from src.evaluation.scores import VideoScores
from src.experiment.init_from import checkpoint_of_stage
from src.experiment.run_dir import StageDir
from src.models.modules import VideoClassifier
from src.training.checkpointing import AtomicCheckpointIO, BestCheckpoint
from src.training.pipeline import run_experiment
from src.training.trainer import instantiate_trainer
from src.utils.errors import UserError
from tests.conftest import compose_config
from tests.processes import run_as_ranks
from tests.training.test_stop_and_go import STRIKE, Clips

HERE = "tests.training.test_best_checkpoint"
# 2 updates of 4 clips in an epoch, and as many videos to validate on
SHORT = (
    "experiment=motion_two_movers",
    "stages.motion.effective_batch_size=4",
    "stages.motion.data.batch_size=4",
    "data.val_fraction=0.5",
)
BEST = ("checkpoint=best", "stages.motion.max_epochs=3", "trainer.max_epochs=3")
EARLY = (
    "+callbacks.early_stopping._target_=pytorch_lightning.callbacks.EarlyStopping",
    "+callbacks.early_stopping.monitor=val/clip/top1",
    "+callbacks.early_stopping.mode=max",
    "+callbacks.early_stopping.patience=1",
    "stages.motion.max_epochs=5",
    "trainer.max_epochs=5",
)


class Rigged(Clips):
    """Labels clips so that one validation is all right, and the others all wrong."""

    def __init__(self, best: int) -> None:
        self.best = best

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        assert isinstance(pl_module, VideoClassifier)
        ((scores,),) = [[v.mean(1) for v in pl_module.logits(batch[0]).values()]]
        right = trainer.current_epoch == self.best
        batch[0]["label"] = scores.argmax(1) if right else scores.argmin(1)
        super().on_validation_batch_start(trainer, pl_module, *batch)


def train(folder: Path, *overrides: str, best: int) -> StageDir:
    """Train a stage of which epoch `best` (from 0) is the best."""
    rigged = [f"+callbacks.rig._target_={HERE}.Rigged", f"+callbacks.rig.best={best}"]
    run_experiment(compose_config("train", *overrides, *rigged, f"paths.run_dir={folder}"))
    return StageDir(folder / "motion")


def stop(folder: Path, *overrides: str, best: int, what: str, at: Sequence[int]) -> None:
    """Train until a signal ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STRIKE, f"{what} {at[0]} {at[1]} 0 {int(signal.SIGTERM)}")
        with pytest.raises(SystemExit):
            train(folder, *overrides, best=best)


def weights(file: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return state


def epochs(stage: StageDir) -> int:
    return int(json.loads(stage.record.read_text())["epochs"])


def assert_same(file: Path, other: Path) -> None:
    expected = weights(other)
    for key, tensor in weights(file).items():
        assert torch.equal(tensor, expected[key]), key


@pytest.fixture(scope="module")
def undisturbed(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> StageDir:
    """The second of three epochs was the best."""
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("best"), *tiny, *SHORT, *BEST, best=1)


@pytest.mark.slow
def test_the_best_epoch_is_tested(undisturbed: StageDir, tmp_path: Path) -> None:
    best, last = undisturbed.best, undisturbed.checkpoint
    assert torch.load(best, weights_only=True)["epoch"] == 1
    assert torch.load(last, weights_only=True)["epoch"] == 2
    assert (epochs(undisturbed), undisturbed.final) == (3, best)
    assert sorted(undisturbed.path.glob("*.ckpt")) == [best, last]
    tested = VideoScores.load(undisturbed.scores()).scores

    def again(checkpoint: Path) -> torch.Tensor:
        output = tmp_path / f"{checkpoint.stem}.csv"
        cfg = compose_config("evaluate", f"ckpt_path={checkpoint}", "trainer.accelerator=cpu")
        evaluate_checkpoint(str(checkpoint), {}, instantiate_trainer(cfg.trainer), str(output))
        return VideoScores.load(output).scores

    torch.testing.assert_close(again(best), tested)
    assert not torch.allclose(again(last), tested)


def test_later_stages_start_from_the_best(undisturbed: StageDir) -> None:
    assert checkpoint_of_stage(undisturbed, "joint") == undisturbed.best
    assert checkpoint_of_stage(undisturbed, "joint") != undisturbed.checkpoint


def test_a_best_checkpoint_that_is_gone_is_told(
    tiny: tuple[str, ...], undisturbed: StageDir, tmp_path: Path
) -> None:
    stage = StageDir(tmp_path / "motion")
    stage.path.mkdir()
    for file in (undisturbed.record, undisturbed.checkpoint):
        (stage.path / file.name).symlink_to(file)
    with pytest.raises(UserError, match=r"motion is finished, but best.ckpt is gone"):
        train(tmp_path, *tiny, *SHORT, *BEST, best=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "at"),
    [("step", (1, 0)), ("validation", (1, 0)), ("step", (2, 0)), ("test", (0, 0))],
)
def test_a_stop_changes_neither_checkpoint(
    what: str, at: tuple[int, int], tiny: tuple[str, ...], undisturbed: StageDir, tmp_path: Path
) -> None:
    overrides = [*tiny, *SHORT, *BEST]
    stop(tmp_path / "stopped", *overrides, best=1, what=what, at=at)
    # in another folder, as after a move
    (tmp_path / "stopped").rename(tmp_path / "moved")
    stage = train(tmp_path / "moved", *overrides, best=1)
    assert epochs(stage) == 3
    assert_same(stage.best, undisturbed.best)
    assert_same(stage.checkpoint, undisturbed.checkpoint)
    assert stage.scores().read_bytes() == undisturbed.scores().read_bytes()


@pytest.mark.slow
def test_the_best_of_averaged_weights(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """What was validated is what is saved, and tested."""
    overrides = [*tiny, *SHORT, *BEST, "callbacks=ema"]
    stage = train(tmp_path / "all", *overrides, best=1)
    short = train(tmp_path / "two", *overrides, "trainer.max_epochs=2", best=1)
    assert_same(stage.best, short.checkpoint)  # the averages after two epochs
    tested = VideoScores.load(stage.scores()).scores
    torch.testing.assert_close(tested, VideoScores.load(short.scores()).scores)
    content = torch.load(stage.best, weights_only=True)
    name = "net.fc.weight"
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])


def test_equal_accuracies_are_told_apart_by_the_loss_then_the_earlier_is_best(
    tmp_path: Path,
) -> None:
    best, module = BestCheckpoint(tmp_path / "best.ckpt"), Mock()

    def saves(top1: float, loss: float) -> bool:
        trainer = Mock(sanity_checking=False)
        trainer.callback_metrics = {
            "val/clip/top1": torch.tensor(top1),
            "val/loss": torch.tensor(loss),
        }
        trainer.strategy.broadcast = lambda value: value
        best.on_validation_end(trainer, module)
        return bool(trainer.save_checkpoint.called)

    assert saves(0.5, 2.0)
    assert not saves(0.4, 1.0)
    assert not saves(0.5, 2.0)
    assert saves(0.5, 1.5)
    assert saves(0.6, 3.0)
    again = BestCheckpoint(tmp_path / "elsewhere" / "best.ckpt")
    again.load_state_dict(best.state_dict())
    best = again
    assert not saves(0.6, 3.0)
    assert saves(0.7, 1.0)


def test_the_best_checkpoint_leaves_the_one_before_the_last_alone(tmp_path: Path) -> None:
    """Training resumes from it where the last one is damaged."""
    for number, name in enumerate(("last.ckpt", "last.ckpt", "best.ckpt", "best.ckpt")):
        AtomicCheckpointIO().save_checkpoint({"a": number}, tmp_path / name)
    found = {file.name: torch.load(file)["a"] for file in tmp_path.iterdir()}
    assert found == {"previous.ckpt": 0, "last.ckpt": 1, "best.ckpt": 3}


@pytest.fixture(scope="module")
def stopped_early(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> StageDir:
    """After the first of five epochs accuracy falls."""
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("early"), *tiny, *SHORT, *EARLY, best=0)


@pytest.mark.slow
def test_early_stopping_finishes_a_stage(
    tiny: tuple[str, ...], stopped_early: StageDir, caplog: pytest.LogCaptureFixture
) -> None:
    assert epochs(stopped_early) == 2
    assert torch.load(stopped_early.checkpoint, weights_only=True)["epoch"] == 1
    written = stopped_early.checkpoint.stat().st_mtime_ns
    caplog.set_level(logging.INFO, "src")
    train(stopped_early.path.parent, *tiny, *SHORT, *EARLY, best=0)
    assert "stage motion is finished" in caplog.text
    assert stopped_early.checkpoint.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_training_that_was_stopped_early_is_not_resumed(
    tiny: tuple[str, ...], stopped_early: StageDir, tmp_path: Path
) -> None:
    """It was killed between the last epoch and the record."""
    stop(tmp_path, *tiny, *SHORT, *EARLY, best=0, what="test", at=[0, 0])
    stage = train(tmp_path, *tiny, *SHORT, *EARLY, best=0)
    assert epochs(stage) == 2
    assert_same(stage.checkpoint, stopped_early.checkpoint)
    assert stage.scores().read_bytes() == stopped_early.scores().read_bytes()


@pytest.mark.slow
def test_two_processes_stop_early_and_test_the_best(tiny: tuple[str, ...], tmp_path: Path) -> None:
    overrides = [*tiny, *SHORT, *EARLY, "checkpoint=best", "stages.motion.data.batch_size=2"]
    overrides += [f"+callbacks.rig._target_={HERE}.Rigged", "+callbacks.rig.best=0"]
    status, told = run_as_ranks([*overrides, f"paths.run_dir={tmp_path}"], tmp_path)
    assert status == [0, 0], told
    stage = StageDir(tmp_path / "motion")
    assert epochs(stage) == 2
    assert torch.load(stage.best, weights_only=True)["epoch"] == 0
