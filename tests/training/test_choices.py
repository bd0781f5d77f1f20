"""Choices of optimisation beside the papers': composed, remembered, checked early, and trained."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from src.errors import UserError
from src.evaluation.evaluate import evaluate_checkpoint
from src.evaluation.scores import VideoScores
from src.models.build import Plan, build_module, build_net
from src.models.mixing import CutMix, MixUp
from src.models.optimisation import Factors
from src.models.schedules import PiecewiseConstant, WarmupCosine
from src.training.checks import check_plans
from src.training.pipeline import run_experiment
from src.training.plan import difference, make_plan, resolve, stage_names
from src.training.trainer import instantiate_trainer
from tests.conftest import compose_config

UCF101 = "experiment=st_resnet_ucf101"
STREAMS = ("appearance", "motion")
TWO_PROCESSES = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


def plans_of(*overrides: str) -> dict[str, Plan]:
    config = resolve(compose_config("train", *overrides))
    return {name: make_plan(config, name) for name in stage_names(config)}


@pytest.fixture(scope="module")
def published() -> dict[str, Plan]:
    return plans_of(UCF101)


def module_of(plan: Plan) -> Any:
    with torch.device("meta"):
        return build_module(plan, build_net(plan))


def test_published_choices_are_the_default(published: dict[str, Plan]) -> None:
    rates = {
        "appearance": [(1e-2, 20), (1e-3, 20), (1e-4, 20)],
        "motion": [(1e-2, 100), (1e-3, 100), (1e-4, 100), (1e-5, 100)],
        "joint": [(1e-3, 30), (1e-4, 30), (1e-5, 20)],
        "joint_pooled": [(1e-4, 1), (1e-5, 1)],
    }
    for stage, plan in published.items():
        module = module_of(plan)
        assert module.schedule.phases == rates[stage]
        assert module.factors == Factors(filter=1, bias=2, bn_scale=2, bn_shift=1)
        assert (module.batch_norm, module.label_smoothing, module.mixing) == ("train", 0, None)
        assert plan["ema"] is None
        assert not plan["sync_batchnorm"]
        groups = module.build_optimizer().param_groups
        found = {(g["name"], g["lr"], g["momentum"], g["weight_decay"]) for g in groups}
        assert found == {
            ("filter", 1, 0.9, 5e-4),
            ("bias", 2, 0.9, 0),
            ("bn_scale", 2, 0.9, 0),
            ("bn_shift", 1, 0.9, 0),
        }


def test_adamw_with_a_cosine_for_all_stages() -> None:
    plans = plans_of(UCF101, "optimizer=adamw", "schedule=cosine", "schedule.lr=3e-4")
    for plan, passes in zip(plans.values(), (60, 400, 80, 2), strict=True):
        module = module_of(plan)
        assert module.schedule == WarmupCosine(3e-4, passes, 0.1)
        optimizer = module.build_optimizer()
        assert isinstance(optimizer, torch.optim.AdamW)
        decays = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
        assert decays.pop("filter") == (1, 0.05)
        assert set(decays.values()) == {(1, 0)}


def test_a_cosine_keeps_a_stages_highest_rate_and_passes() -> None:
    schedules = {
        name: module_of(p).schedule for name, p in plans_of(UCF101, "schedule=cosine").items()
    }
    assert schedules == {
        "appearance": WarmupCosine(1e-2, 60),
        "motion": WarmupCosine(1e-2, 400),
        "joint": WarmupCosine(1e-3, 80),
        "joint_pooled": WarmupCosine(1e-4, 2),
    }


def test_choices_of_one_stage() -> None:
    plans = plans_of(
        UCF101,
        "mixing=mixup",
        "+mixing@stages.motion.mixing=cutmix",
        "+schedule@stages.joint.schedule=cosine",
        "stages.joint.schedule.epochs=20",
        "+optimizer@stages.joint.optimizer=adamw",
        "+stages.joint.batch_norm=partial",
        "+stages.joint.label_smoothing=0.1",
    )
    modules = {name: module_of(plan) for name, plan in plans.items()}
    joint, others = modules.pop("joint"), modules.values()
    assert joint.schedule == WarmupCosine(1e-3, 20)
    assert isinstance(joint.build_optimizer(), torch.optim.AdamW)
    assert (joint.batch_norm, joint.label_smoothing) == ("partial", 0.1)
    assert all(isinstance(m.schedule, PiecewiseConstant) for m in others)
    assert all(isinstance(m.build_optimizer(), torch.optim.SGD) for m in others)
    assert {(m.batch_norm, m.label_smoothing) for m in others} == {("train", 0)}
    assert modules["motion"].mixing == CutMix(1.0)
    assert modules["appearance"].mixing == joint.mixing == MixUp(0.2)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("optimizer=adamw", r"optimizer\._target_: torch\.optim\.AdamW, torch\.optim\.SGD"),
        ("optimizer.factors.bias=1", r"optimizer\.factors\.bias: 1, 2"),
        ("schedule=cosine", r"module\.schedule\._target_: .*WarmupCosine, .*PiecewiseConstant"),
        ("mixing=mixup", r"module\.mixing: .*MixUp.*, None"),
        ("label_smoothing=0.1", r"module\.label_smoothing: 0\.1, 0\.0"),
        ("batch_norm=partial", r"module\.batch_norm: partial, train"),
        ("class_weights=balanced", r"module\.class_weights: balanced, None"),
        (
            "+stages.joint.class_weights=[1,2,3]",
            r"module\.class_weights: \[1, 2, 3\], None",
        ),
        ("data.val_fraction=0.1", r"data\.val_fraction: 0\.1, None"),
        ("checkpoint=best", "checkpoint: best, last"),
        ("callbacks=ema", r"ema: \{'decay': 0\.999\}, None"),
        ("trainer.sync_batchnorm=true", r"sync_batchnorm: True, False"),
    ],
)
def test_a_changed_choice_is_noticed(choice: str, told: str, published: dict[str, Plan]) -> None:
    found = difference(plans_of(UCF101, choice)["joint"], published["joint"])
    assert found is not None
    assert re.fullmatch(told, found)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["optimizer.weight_decay=-1"], "stage appearance: Invalid weight_decay value: -1"),
        (["+stages.joint.module.colour=1"], "stage joint: .*unexpected keyword argument 'colour'"),
        (["+optimizer.factors.filters=1"], "stage appearance: .*argument 'filters'"),
        (["label_smoothing=null"], "stage appearance: label_smoothing=None: needs a share"),
        (["batch_norm=half"], "stage appearance: batch_norm=half: choose from train, frozen"),
        (
            ["batch_norm=frozen", "model.backbone.pretrained=null"],
            r"stage appearance: batch_norm=frozen keeps .*\+stages\.appearance\.batch_norm=train",
        ),
        (
            ["class_weights=[1,2]"],
            r"stage appearance: class_weights=\[1, 2\]: needs null, .* 101 num",
        ),
        (["checkpoint=first"], "stage appearance: checkpoint=first: choose from last, best"),
        (
            ["+stages.joint.checkpoint=best"],
            r"stage joint: checkpoint=best would be chosen on the test list.*data\.val_fr",
        ),
        (
            ["checkpoint=best", "data.val_fraction=0.1", "trainer.limit_val_batches=0"],
            r"stage appearance: checkpoint=best is chosen in validation, which trainer\.limit_val",
        ),
        (["mixing=mixup", "stages.joint.data.batch_size=1"], "stage joint: mixing needs 2 clips"),
        (
            [*TWO_PROCESSES, "trainer.sync_batchnorm=true"],
            r"trainer\.sync_batchnorm=true needs GPUs",
        ),
    ],
)
def test_mistakes_are_found_before_the_start(
    overrides: list[str], told: str, tmp_path: Path
) -> None:
    """Before data are looked for, which are not there."""
    cfg = compose_config("train", UCF101, *overrides, f"paths.run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=told):
        run_experiment(cfg)
    assert not (tmp_path / "run").exists()


def test_many_choices_together(tiny: tuple[str, ...], finished_run: Path, tmp_path: Path) -> None:
    """Trained, tested and continued: the average of the weights is what everybody sees."""
    choices = [
        "only=joint",
        *(f"stages.joint.start_from.{s}={finished_run / s}/last.ckpt" for s in STREAMS),
        "stages.joint.data.batch_size=5",  # two steps an update
        "optimizer=adamw",
        "schedule=cosine",
        "schedule.lr=1e-3",
        "mixing=cutmix",
        "label_smoothing=0.1",
        "batch_norm=partial",
        f"paths.run_dir={tmp_path}",
    ]
    averaged = compose_config("train", *tiny, *choices, "callbacks=ema")
    run_experiment(averaged)
    joint = tmp_path / "joint"
    tested = VideoScores.load(joint / "scores.csv")
    # The checkpoint's weights, and those of a run that was stopped before its test, are the same.
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    evaluate_checkpoint(str(joint / "last.ckpt"), {}, trainer, str(tmp_path / "scores.csv"))
    evaluated = VideoScores.load(tmp_path / "scores.csv")
    (joint / "stage.json").unlink()
    run_experiment(averaged)
    again = VideoScores.load(joint / "scores.csv")
    assert tested.videos == evaluated.videos == again.videos
    torch.testing.assert_close(evaluated.scores, tested.scores)
    torch.testing.assert_close(again.scores, tested.scores)

    content = torch.load(joint / "last.ckpt", weights_only=True)
    average, current = content["state_dict"], content["current_model_state"]
    assert not torch.equal(average["net.motion.fc.weight"], current["net.motion.fc.weight"])
    for stream in STREAMS:
        start = torch.load(finished_run / stream / "last.ckpt", weights_only=True)["state_dict"]
        for name, tensor in start.items():
            if ".bn" in name or "downsample.1" in name:
                same = torch.equal(average[name.replace("net.", f"net.{stream}.")], tensor)
                assert same == (not name.startswith("net.bn1")), name

    plain = compose_config("train", *tiny, *choices)
    with pytest.raises(UserError, match=r"ema: None, \{'decay': 0\.999\} there"):
        run_experiment(plain)


def test_sgds_rates_with_adamw_are_told(caplog: pytest.LogCaptureFixture) -> None:
    for overrides, told in (((), 2), (("schedule=cosine", "schedule.lr=3e-4"), 0)):
        config = resolve(compose_config("train", UCF101, "optimizer=adamw", *overrides))
        names = ("appearance", "motion")
        caplog.clear()
        check_plans({name: make_plan(config, name) for name in names}, config)
        assert sum("which suits SGD" in message for message in caplog.messages) == told


def test_a_trainer_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)  # as its import sets it
    with caplog.at_level(logging.INFO):
        instantiate_trainer(compose_config("train").trainer, logger=False)
    assert [record.message for record in caplog.records if "lightning" in record.name] == []
