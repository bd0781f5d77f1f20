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

from src import train
from src.evaluation.scores import VideoScores
from src.experiment.build import build_module
from src.models.modules import VideoClassifier
from src.training import pipeline
from src.training.pipeline import run_experiment
from src.utils.errors import UserError
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
        assert {"train/loss_step", "val/clip/top1", "test/video/top5", "lr-SGD/weight"} <= columns


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
        assert entry["config"]["stage"] == stage
        record = json.loads((finished_run / stage / "stage.json").read_text())
        assert record["config"] == entry["config"]
        assert entry["config"]["name"] == "st_resnet_two_movers"
        assert entry["class_names"][:2] == ["red_left", "red_right"]
        assert entry["split"] == 1
        assert entry["normalization"]["flow_mean"] == 128
        assert (entry["flow"] or {}).get("algorithm") == (None if stage == "appearance" else "dis")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_stage_leaves_its_memory_to_the_next(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules: list[weakref.ref[VideoClassifier]] = []
    alive: list[int] = []

    def build(*arguments: Any, **steps: Any) -> VideoClassifier:
        alive.append(sum(module() is not None for module in modules))
        module = build_module(*arguments, **steps)
        modules.append(weakref.ref(module))
        return module

    monkeypatch.setattr(pipeline, "build_module", build)
    short = ("run_stages=[appearance,motion]", "trainer.limit_train_batches=1")
    gc.disable()  # else chance would do it
    try:
        run_experiment(compose_config("train", *tiny, *short, f"paths.run_dir={tmp_path}"))
    finally:
        gc.enable()
    assert alive == [0, 0]


@pytest.mark.slow
def test_finished_stages_are_not_trained_again(tiny: tuple[str, ...], copied_run: Path) -> None:
    cfg = compose_config("train", *tiny, f"paths.run_dir={copied_run}")
    before = {s: (copied_run / s / "last.ckpt").stat().st_mtime_ns for s in STAGES}
    shutil.rmtree(copied_run / "joint_pooled")
    run_experiment(cfg)
    after = {s: (copied_run / s / "last.ckpt").stat().st_mtime_ns for s in STAGES}
    assert [s for s in STAGES if before[s] != after[s]] == ["joint_pooled"]


@pytest.mark.slow
def test_a_finished_stage_without_its_weights_is_not_trained_again(
    tiny: tuple[str, ...], copied_run: Path
) -> None:
    (copied_run / "appearance" / "last.ckpt").unlink()
    with pytest.raises(
        UserError, match=r"appearance is finished, but last\.ckpt is gone.*skip_stages=ap"
    ):
        run_experiment(compose_config("train", *tiny, f"paths.run_dir={copied_run}"))
    assert not (copied_run / "appearance" / "last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("finished", [False, True])
def test_a_stage_is_trained_on_for_more_epochs(
    finished: bool, tiny: tuple[str, ...], copied_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is missing, with the optimizer's state, and ends as one that was trained for as long."""
    record = copied_run / "motion" / "stage.json"
    if not finished:
        record.unlink()
    before = torch.load(copied_run / "motion" / "last.ckpt", weights_only=True)
    run = f"paths.run_dir={copied_run}"
    more = ("run_stages=motion", "trainer.max_epochs=2", run)
    with pytest.raises(UserError, match=r"trainer\.max_epochs: 2, 1 there.*resume=force"):
        run_experiment(compose_config("train", *tiny, *more))
    run_experiment(compose_config("train", *tiny, *more, "resume=force"))
    content = torch.load(copied_run / "motion" / "last.ckpt", weights_only=True)
    assert (before["global_step"], content["global_step"]) == (1, 2)  # one of each epoch
    assert json.loads(record.read_text())["epochs"] == 2

    at_once = copied_run.parent / "at once"
    run_experiment(compose_config("train", *tiny, *more, f"paths.run_dir={at_once}"))
    wanted = weights(at_once, "motion")
    assert all(
        torch.equal(tensor, wanted[k]) for k, tensor in weights(copied_run, "motion").items()
    )

    caplog.set_level("INFO")
    run_experiment(compose_config("train", *tiny, *more, "resume=force"))
    assert "stage motion is finished" in caplog.text
    run_experiment(compose_config("train", *tiny, "run_stages=motion", run, "resume=force"))
    assert "nothing is left to train" in caplog.text  # one epoch, of two
    assert weights(copied_run, "motion").keys() == wanted.keys()


@pytest.mark.slow
def test_later_stages_of_one_that_was_trained_on_are_told(
    tiny: tuple[str, ...], copied_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = (
        "skip_stages=[appearance,joint_pooled]",
        "resume=force",
        "stages.motion.max_epochs=7",
    )
    cap = "trainer.max_epochs=null"
    fewer = (*tiny, *changes, cap, "stages.joint.max_epochs=1", f"paths.run_dir={copied_run}")
    run_experiment(compose_config("train", *fewer))
    assert "stage joint started from stage motion as it was before: delete" in caplog.text


@pytest.mark.slow
def test_another_config_is_refused(tiny: tuple[str, ...], copied_run: Path) -> None:
    changes = ("stages.motion.optimizer.lr=0.01", f"paths.run_dir={copied_run}")
    with pytest.raises(UserError, match=r"optimizer\.lr: 0\.01, 0\.05 there.*resume=force"):
        run_experiment(compose_config("train", *tiny, *changes))
    run_experiment(compose_config("train", *tiny, *changes, "resume=force"))


@pytest.mark.slow
def test_stage_alone_from_given_checkpoints(
    tiny: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    sources = [
        f"stages.joint.init_from.{stream}={finished_run / stream / 'last.ckpt'}"
        for stream in ("appearance", "motion")
    ]
    run_experiment(
        compose_config(
            "train", *tiny, "run_stages=joint", *sources, f"paths.run_dir={tmp_path / 'run'}"
        )
    )
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["joint", "results.csv"]


@pytest.mark.slow
def test_stage_can_be_skipped(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """Without its stream the joint stage has nothing to start from, which it says at once."""
    run = f"paths.run_dir={tmp_path / 'run'}"
    with pytest.raises(UserError, match="joint starts from stage motion, which is not finished"):
        run_experiment(compose_config("train", *tiny, run, "skip_stages=motion"))
    from_nothing = ("stages.joint.init_from.motion=null", "skip_stages=[motion,joint_pooled]")
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
            compose_config(
                "train", *tiny, wrong, wider, "run_stages=motion", f"paths.run_dir={tmp_path}"
            )
        )


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shorter", "told"),
    [
        ("+trainer.max_steps=1", r"trainer\.max_steps: None, 1 there"),
        ("trainer.limit_test_batches=1", r"trainer\.limit_test_batches: 1\.0, 1 there"),
        ("callbacks=ema", r"callbacks\.ema\._target_: None, .*EMA there"),
    ],
)
def test_a_run_of_another_config_is_not_taken_for_a_finished_one(
    shorter: str, told: str, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """Lightning has settings that nobody here has thought of: all of them count."""
    whole = (*tiny, "run_stages=appearance", f"paths.run_dir={tmp_path / 'run'}")
    run_experiment(compose_config("train", *whole, shorter))
    with pytest.raises(UserError, match=told):
        run_experiment(compose_config("train", *whole))


@pytest.mark.slow
def test_results_of_another_config_are_not_shown(
    tiny: tuple[str, ...], copied_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of stages that lie in the directory; late fusion is of streams of one config."""
    caplog.set_level("INFO")
    shutil.rmtree(copied_run / "motion")
    other = ("run_stages=motion", "trainer.limit_test_batches=1", f"paths.run_dir={copied_run}")
    run_experiment(compose_config("train", *tiny, *other))
    with (copied_run / "results.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["motion"]
    for stage in ("appearance", "joint", "joint_pooled"):
        assert f"stage {stage} in {copied_run / stage} was trained with another" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("+trainer.fast_dev_run=true", "debug=steps"),
        ("+trainer.accumulate_grad_batches=4", r"stages\.<stage>\.effective_batch_size"),
        ("+trainer.overfit_batches=1", "debug=overfit"),
        ("+trainer.logger=false", "logger="),
        ("+trainer.callbacks=null", r"\+callbacks\."),
        ("+trainer.default_root_dir=x", "paths.run_dir"),
        ("+trainer.max_time=00:00:01:00", "max_epochs"),
        ("trainer.limit_train_batches=0", "needs an integer from 1"),
    ],
)
def test_what_the_project_sets_itself_is_refused(
    key: str, instead: str, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """With what to use in its place, and before anything is written."""
    run = f"paths.run_dir={tmp_path / 'run'}"
    name = key.lstrip("+").partition("=")[0].replace(".", r"\.")
    with pytest.raises(UserError, match=rf"{name}=.*{instead}"):
        run_experiment(compose_config("train", *tiny, key, run))
    assert not (tmp_path / "run").exists()


def test_a_cap_that_caps_nothing_is_told(
    tiny: tuple[str, ...], copied_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cap = ("run_stages=motion", "trainer.max_epochs=400", "resume=force", "skip_stages=[]")
    short = ("stages.motion.max_epochs=1", f"paths.run_dir={copied_run}")
    run_experiment(compose_config("train", *tiny, *cap, *short))
    assert "trainer.max_epochs=400 is a cap, and caps nothing: stages.motion.max_epochs=1" in (
        caplog.text
    )


@pytest.mark.slow
def test_how_a_batch_is_made_up_is_told(
    tiny: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    batch = ("stages.motion.effective_batch_size=8", "stages.motion.data.batch_size=4")
    run = (*tiny, *batch, "run_stages=motion", f"paths.run_dir={tmp_path}")
    run_experiment(compose_config("train", *run))
    line = "stage motion: 8 clips an update = 4 clips x 1 device x 2 accumulated steps"
    assert line in caplog.messages


def test_an_override_that_no_stage_sees_is_refused(
    tiny: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], call: Any
) -> None:
    run = (*tiny, f"paths.run_dir={tmp_path / 'run'}", "run_stages=[appearance,joint]")
    assert call(train.main, *run, "optimizer.lr=0.1") == 1
    wanted = "give stages.appearance.optimizer.lr=0.1 stages.joint.optimizer.lr=0.1"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "run" / "appearance").exists()
