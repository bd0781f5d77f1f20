"""The stages of an experiment, on the real configuration made tiny."""

import csv
import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from src.errors import UserError
from src.evaluation.scores import VideoScores
from src.experiment.build import build_module
from src.models.modules import VideoClassifier
from src.training import pipeline
from src.training.pipeline import run_experiment
from tests.conftest import compose_config

STAGES = ("appearance", "motion", "joint", "joint_pooled")


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    content = torch.load(run / stage / "last.ckpt", weights_only=True)
    return {name.removeprefix("net."): tensor for name, tensor in content["state_dict"].items()}


def test_every_stage_leaves_checkpoint_scores_logs_and_record(finished_run: Path) -> None:
    for stage in STAGES:
        folder = finished_run / stage
        record = json.loads((folder / "stage.json").read_text())
        scores = VideoScores.load(folder / "scores.csv")
        assert record["accuracy"]["videos"] == len(scores.videos) == 8
        assert "mean of logits" in record["protocol"]
        assert any((folder / "tensorboard").glob("events*"))
        with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
            columns = set(csv.DictReader(file).fieldnames or ())
        assert {"train/loss_step", "val/clip/top1", "test/video/top5", "lr-SGD/filter"} <= columns


def test_table_has_streams_late_fusion_and_joint_in_order(finished_run: Path) -> None:
    with (finished_run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [
        "appearance",
        "motion",
        "late fusion of both",
        "joint: appearance classifier",
        "joint: motion classifier",
        "joint",
        "joint_pooled: appearance classifier",
        "joint_pooled: motion classifier",
        "joint_pooled",
    ]


def test_late_fusion_is_the_mean_of_the_streams_logits(finished_run: Path) -> None:
    streams = [VideoScores.load(finished_run / s / "scores.csv") for s in STAGES[:2]]
    assert streams[0].videos == streams[1].videos
    mean = (streams[0].scores + streams[1].scores) / 2
    top1 = 100 * (mean.argmax(1) == torch.tensor(streams[0].labels)).float().mean()
    with (finished_run / "results.csv").open() as file:
        fused = next(row for row in csv.DictReader(file) if row["name"].startswith("late"))
    assert float(fused["top1"]) == pytest.approx(float(top1))


def test_checkpoints_carry_what_is_needed_to_use_them(finished_run: Path) -> None:
    for stage in STAGES:
        entry = torch.load(finished_run / stage / "last.ckpt", weights_only=True)["experiment"]
        assert entry["plan"]["stage"] == stage
        assert entry["config"]["name"] == "st_resnet_two_movers"
        assert entry["class_names"][:2] == ["red_left", "red_right"]
        assert entry["split"] == 1
        assert entry["normalisation"]["flow_mean"] == 128
        assert (entry["flow"] or {}).get("algorithm") == (None if stage == "appearance" else "dis")


def test_stages_start_from_those_before(
    tiny: tuple[str, ...], copied_run: Path, tmp_path: Path
) -> None:
    """With a learning rate of zero a stage's weights are those it started from."""
    for stage in ("joint", "joint_pooled"):
        shutil.rmtree(copied_run / stage)
    still = [f"stages.{s}.optimizer.lr=0" for s in ("joint", "joint_pooled")]
    run_experiment(compose_config("train", *tiny, *still, f"paths.run_dir={copied_run}"))
    joint, pooled = weights(copied_run, "joint"), weights(copied_run, "joint_pooled")
    for stream in ("appearance", "motion"):
        alone = weights(copied_run, stream)
        torch.testing.assert_close(joint[f"{stream}.conv1.weight"], alone["conv1.weight"])
        torch.testing.assert_close(joint[f"{stream}.fc.weight"], alone["fc.weight"])
        grown = joint[f"{stream}.layer3.1.conv3.weight"]
        torch.testing.assert_close(grown.sum(2), alone["layer3.1.conv3.weight"])
        torch.testing.assert_close(pooled[f"{stream}.layer3.1.conv3.weight"], grown)


def test_a_stage_leaves_its_memory_to_the_next(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules: list[weakref.ref[VideoClassifier]] = []
    alive: list[int] = []

    def build(*arguments: Any) -> VideoClassifier:
        alive.append(sum(module() is not None for module in modules))
        module = build_module(*arguments)
        modules.append(weakref.ref(module))
        return module

    monkeypatch.setattr(pipeline, "build_module", build)
    short = ("only=[appearance,motion]", "trainer.limit_train_batches=1")
    gc.disable()  # else chance would do it
    try:
        run_experiment(compose_config("train", *tiny, *short, f"paths.run_dir={tmp_path}"))
    finally:
        gc.enable()
    assert alive == [0, 0]


def test_finished_stages_are_not_trained_again(tiny: tuple[str, ...], copied_run: Path) -> None:
    cfg = compose_config("train", *tiny, f"paths.run_dir={copied_run}")
    before = {s: (copied_run / s / "last.ckpt").stat().st_mtime_ns for s in STAGES}
    shutil.rmtree(copied_run / "joint_pooled")
    run_experiment(cfg)
    after = {s: (copied_run / s / "last.ckpt").stat().st_mtime_ns for s in STAGES}
    assert [s for s in STAGES if before[s] != after[s]] == ["joint_pooled"]


def test_a_finished_stage_without_its_weights_is_not_trained_again(
    tiny: tuple[str, ...], copied_run: Path
) -> None:
    (copied_run / "appearance" / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"appearance is finished, but last\.ckpt is gone.*skip=ap"):
        run_experiment(compose_config("train", *tiny, f"paths.run_dir={copied_run}"))
    assert not (copied_run / "appearance" / "last.ckpt").exists()


def test_training_goes_on_after_a_stop(tiny: tuple[str, ...], copied_run: Path) -> None:
    """A stage whose record is missing goes on from its last pass."""
    (copied_run / "motion" / "stage.json").unlink()
    changes = ("only=motion", "resume=force", "trainer.max_epochs=2")
    run_experiment(compose_config("train", *tiny, *changes, f"paths.run_dir={copied_run}"))
    content = torch.load(copied_run / "motion" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 2  # one of each pass


def test_another_config_is_refused(tiny: tuple[str, ...], copied_run: Path) -> None:
    changes = ("stages.motion.optimizer.lr=0.01", f"paths.run_dir={copied_run}")
    with pytest.raises(UserError, match=r"module\.schedule\.lr: 0\.01, 0\.05 there.*resume=force"):
        run_experiment(compose_config("train", *tiny, *changes))
    run_experiment(compose_config("train", *tiny, *changes, "resume=force"))


def test_stage_alone_from_given_checkpoints(
    tiny: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    sources = [
        f"stages.joint.init_from.{stream}={finished_run / stream / 'last.ckpt'}"
        for stream in ("appearance", "motion")
    ]
    run_experiment(
        compose_config("train", *tiny, "only=joint", *sources, f"paths.run_dir={tmp_path / 'run'}")
    )
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["joint", "results.csv"]


def test_stage_can_be_skipped(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """Without its stream the joint stage has nothing to start from, which it says at once."""
    run = f"paths.run_dir={tmp_path / 'run'}"
    with pytest.raises(UserError, match="joint starts from stage motion, which is not finished"):
        run_experiment(compose_config("train", *tiny, run, "skip=motion"))
    from_nothing = ("stages.joint.init_from.motion=null", "skip=[motion,joint_pooled]")
    run_experiment(compose_config("train", *tiny, run, *from_nothing))
    assert (tmp_path / "run" / "joint" / "stage.json").is_file()
    assert not (tmp_path / "run" / "motion").exists()


def test_checkpoint_of_another_model_is_refused(
    tiny: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    wrong = f"stages.motion.init_from={finished_run / 'appearance' / 'last.ckpt'}"
    wider = "model.backbone.width=8"
    with pytest.raises(UserError, match=r"does not fit this network: conv1\.weight is \(4, 3, 7"):
        run_experiment(
            compose_config("train", *tiny, wrong, wider, "only=motion", f"paths.run_dir={tmp_path}")
        )


def test_finished_stages_stay_when_a_later_one_fails(
    tiny: tuple[str, ...], copied_run: Path
) -> None:
    """Flow of one video is lost between two stages: the motion stage names it."""
    shutil.rmtree(copied_run / "motion")
    shutil.rmtree(copied_run / "joint")
    shutil.rmtree(copied_run / "joint_pooled")
    broken = "data.flow=/nowhere"
    with pytest.raises(UserError, match=r"flow /nowhere does not exist.*extract_flow"):
        run_experiment(
            compose_config("train", *tiny, broken, "resume=force", f"paths.run_dir={copied_run}")
        )
    assert (copied_run / "appearance" / "stage.json").is_file()
