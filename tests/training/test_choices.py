"""Choices of optimization beside the papers': composed, remembered, checked early, and trained."""

import csv
import logging
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import SequentialLR

from src.evaluation.evaluate import evaluate_checkpoint
from src.evaluation.scores import VideoScores
from src.experiment.build import build_module, build_net, build_optimization
from src.experiment.config import StageConfig, config_diff, stage_configs
from src.experiment.run_dir import stage_dirs
from src.models.modules import VideoClassifier
from src.models.optimization import CutMix, LrMultipliers, MixUp, Optimization
from src.training.checks import check_stages
from src.training.pipeline import run_experiment
from src.training.trainer import instantiate_trainer
from src.utils.errors import UserError
from tests.conftest import compose_config

pytestmark = pytest.mark.slow

UCF101 = "experiment=st_resnet_ucf101"
STREAMS = ("appearance", "motion")
TWO_PROCESSES = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


def configs_of(*overrides: str) -> dict[str, StageConfig]:
    return stage_configs(compose_config("train", *overrides), overrides)


@pytest.fixture(scope="module")
def published() -> dict[str, StageConfig]:
    return configs_of(UCF101)


def module_of(config: StageConfig) -> VideoClassifier:
    with torch.device("meta"):
        return build_module(config, build_net(config), total_steps=100)


def optimization_of(config: StageConfig) -> Optimization:
    return build_optimization(config, total_steps=100)


def optimizer_of(config: StageConfig) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = module_of(config).configure_optimizers()["optimizer"]
    return optimizer


def test_published_choices_are_the_default(published: dict[str, StageConfig]) -> None:
    rates = {"appearance": 1e-2, "motion": 1e-2, "joint": 1e-3, "joint_pooled": 1e-4}
    for stage, config in published.items():
        chosen, lr = optimization_of(config), rates[stage]
        assert chosen.lr_multipliers == LrMultipliers(weight=1, bias=2, bn_weight=2, bn_bias=1)
        assert (chosen.batch_norm, chosen.label_smoothing, chosen.mixing) == ("train", 0, None)
        assert chosen.lr_interval == "epoch"
        assert "ema" not in config["callbacks"]
        assert not config["trainer"]["sync_batchnorm"]
        groups = optimizer_of(config).param_groups
        found = {(g["name"], g["lr"], g["momentum"], g["weight_decay"]) for g in groups}
        assert found == {
            ("weight", lr, 0.9, 5e-4),
            ("bias", 2 * lr, 0.9, 0),
            ("bn_weight", 2 * lr, 0.9, 0),
            ("bn_bias", lr, 0.9, 0),
        }


def test_adamw_with_a_cosine_for_all_stages(published: dict[str, StageConfig]) -> None:
    choices = [f"stages.{name}.optimizer.lr=3e-4" for name in published]
    choices += [f"lr_scheduler@stages.{name}.lr_scheduler=warmup_cosine" for name in published]
    for config in configs_of(UCF101, "optimizer=adamw", *choices).values():
        assert optimization_of(config).lr_interval == "step"
        entry = module_of(config).configure_optimizers()
        assert isinstance(entry["lr_scheduler"]["scheduler"], SequentialLR)
        optimizer = optimizer_of(config)
        assert isinstance(optimizer, torch.optim.AdamW)
        decays = {g["name"]: (g["initial_lr"], g["weight_decay"]) for g in optimizer.param_groups}
        assert decays.pop("weight") == (3e-4, 0.05)
        assert set(decays.values()) == {(3e-4, 0)}


def test_choices_of_one_stage() -> None:
    configs = configs_of(
        UCF101,
        "mixing=mixup",
        "+mixing@stages.motion.mixing=cutmix",
        "lr_scheduler@stages.joint.lr_scheduler=warmup_cosine",
        "stages.joint.max_epochs=20",
        "+optimizer@stages.joint.optimizer=adamw",
        "stages.joint.optimizer.lr=1e-4",
        "+stages.joint.batch_norm=partial",
        "+stages.joint.label_smoothing=0.1",
    )
    chosen = {name: optimization_of(config) for name, config in configs.items()}
    joint, others = chosen.pop("joint"), chosen.values()
    assert configs["joint"]["max_epochs"] == 20
    assert joint.lr_interval == "step"
    assert isinstance(optimizer_of(configs["joint"]), torch.optim.AdamW)
    assert (joint.lr, joint.batch_norm, joint.label_smoothing) == (1e-4, "partial", 0.1)
    assert all(other.lr_interval == "epoch" for other in others)
    assert all(isinstance(optimizer_of(configs[n]), torch.optim.SGD) for n in chosen)
    assert {(other.batch_norm, other.label_smoothing) for other in others} == {("train", 0)}
    assert chosen["motion"].mixing == CutMix(1.0)
    assert chosen["appearance"].mixing == joint.mixing == MixUp(0.2)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("optimizer=adamw", r"optimizer\._target_: torch\.optim\.AdamW, torch\.optim\.SGD"),
        ("optimizer.lr_multipliers.bias=1", r"optimizer\.lr_multipliers\.bias: 1, 2"),
        (
            "lr_scheduler@stages.joint.lr_scheduler=warmup_cosine",
            r"lr_scheduler\._target_: .*warmup_cosine, .*MultiStepLR",
        ),
        ("stages.joint.milestones=[20]", r"lr_scheduler\.milestones: \[20\], \[30, 60\]"),
        ("mixing=mixup", r"mixing\._target_: .*MixUp, None"),
        ("label_smoothing=0.1", r"label_smoothing: 0\.1, 0\.0"),
        ("batch_norm=partial", r"batch_norm: partial, train"),
        ("class_weights=balanced", "class_weights: balanced, None"),
        ("+stages.joint.class_weights=[1,2,3]", r"class_weights: \[1, 2, 3\], None"),
        ("data.val_fraction=0.1", r"data\.val_fraction: 0\.1, None"),
        ("checkpoint=best", "checkpoint: best, last"),
        ("callbacks=ema", r"callbacks\.ema\._target_: .*EMA, None"),
        ("trainer.sync_batchnorm=true", r"trainer\.sync_batchnorm: True, False"),
        ("+trainer.gradient_clip_val=1", r"trainer\.gradient_clip_val: 1, None"),
    ],
)
def test_a_changed_choice_is_noticed(
    choice: str, told: str, published: dict[str, StageConfig]
) -> None:
    found = config_diff(configs_of(UCF101, choice)["joint"], published["joint"])
    assert found is not None
    assert re.fullmatch(told, found)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["optimizer.weight_decay=-1"], "stage appearance: Invalid weight_decay value: -1"),
        (["+stages.joint.module.color=1"], "stage joint: .*unexpected keyword argument 'color'"),
        (["+optimizer.lr_multipliers.filters=1"], "stage appearance: .*argument 'filters'"),
        (["stages.motion.optimizer.lr=-1"], r"stage motion: optimizer\.lr=-1: needs a number from"),
        (["stages.motion.optimizer.lr=fast"], r"stage motion: optimizer\.lr=fast: needs a number"),
        (["stages.motion.optimizer.lr=nan"], r"stage motion: optimizer\.lr=nan: needs a number"),
        (["stages.motion.max_epochs=1.5"], r"stages\.motion\.max_epochs=1\.5: needs an integer"),
        (["+stages.motion.lr_scheduler.gama=1"], "stage motion: .*argument 'gama'"),
        (["label_smoothing=null"], "stage appearance: label_smoothing=None: needs a share"),
        (["batch_norm=half"], "stage appearance: batch_norm=half: choose from train, frozen"),
        (
            ["batch_norm=frozen", "model.backbone.weights=null"],
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
        (["data.test.frames=4"], "stage joint_pooled: a clip of 4 frames is shorter than the te"),
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
        "run_stages=joint",
        *(f"stages.joint.init_from.{s}={finished_run / s}/last.ckpt" for s in STREAMS),
        "stages.joint.data.batch_size=5",  # two steps an update
        "optimizer=adamw",
        "stages.joint.optimizer.lr=1e-3",
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
    with pytest.raises(UserError, match=r"callbacks\.ema\._target_: None, .*EMA there"):
        run_experiment(plain)


def test_sgds_rates_with_adamw_are_told(caplog: pytest.LogCaptureFixture) -> None:
    low = [f"stages.{name}.optimizer.lr=3e-4" for name in ("appearance", "motion")]
    for overrides, told in (([], 2), (low, 0)):
        choices = (UCF101, "optimizer=adamw", "run_stages=[appearance,motion]", *overrides)
        cfg = compose_config("train", *choices)
        caplog.clear()
        check_stages(stage_configs(cfg), stage_dirs(cfg))
        assert sum("which suits SGD" in message for message in caplog.messages) == told


def test_ones_own_scheduler_is_stepped(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """A class of torch's, after every epoch; one that takes total_steps, after every update."""
    base = (*tiny, "experiment=motion_two_movers", "trainer.max_epochs=3")
    half = (
        "~lr_scheduler@stages.motion.lr_scheduler",
        "+stages.motion.lr_scheduler._target_=torch.optim.lr_scheduler.ExponentialLR",
        "+stages.motion.lr_scheduler._partial_=true",
        "+stages.motion.lr_scheduler.gamma=0.5",
    )
    run_experiment(compose_config("train", *base, *half, f"paths.run_dir={tmp_path / 'half'}"))
    assert rates_of(tmp_path / "half") == pytest.approx([0.05, 0.025, 0.0125])
    plateau = (
        "~lr_scheduler@stages.motion.lr_scheduler",
        "+stages.motion.lr_scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
        "+stages.motion.lr_scheduler._partial_=true",
        "+stages.motion.lr_scheduler.patience=0",
        "+stages.motion.lr_scheduler.threshold=100",  # nothing is good enough
    )
    run_experiment(compose_config("train", *base, *plateau, f"paths.run_dir={tmp_path / 'p'}"))
    assert rates_of(tmp_path / "p") == pytest.approx([0.05, 0.005, 0.0005])


def rates_of(run: Path) -> list[float]:
    with (run / "motion" / "csv" / "version_0" / "metrics.csv").open() as file:
        rates = [row["lr-SGD/weight"] for row in csv.DictReader(file)]
    return [float(rate) for rate in rates if rate]


def test_a_trainer_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)  # as its import sets it
    with caplog.at_level(logging.INFO):
        instantiate_trainer(compose_config("train").trainer, logger=False)
    assert [record.message for record in caplog.records if "lightning" in record.name] == []
