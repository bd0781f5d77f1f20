"""A run that is lost stops at the step, and leaves what is needed to run that step again."""

import csv
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from src import train
from src.errors import UserError
from src.models.build import build_datamodule
from src.models.checkpoints import KEY
from src.training.callbacks import DescribeCheckpoint
from src.training.failed_step import STEP, FailedStep
from src.training.health import Explosion, Health
from src.training.pipeline import run_experiment
from src.training.plan import make_plan, resolve
from src.training.replay import backward, replay
from tests.conftest import compose_config
from tests.models.test_modules import build, loader, random_batch
from tests.training.two_ranks import train_as_two

FOUR_STEPS = ("stages.appearance.batch_size=4", "stages.appearance.data.batch_size=4")
APPEARANCE = ("experiment=appearance_two_movers", *FOUR_STEPS)
JOINT = (
    "only=joint",
    "stages.joint.start_from.appearance=null",
    "stages.joint.start_from.motion=null",
    "stages.joint.batch_size=4",
    "stages.joint.data.batch_size=4",
)
RATE = "stages.appearance.module.schedule.lr"


class Spoil(pl.Callback):
    """From one batch on makes nan of what a layer returns, of its gradient, or of its weight."""

    def __init__(self, what: str, layer: str, batch: int, rank: int = 0) -> None:
        self.what, self.layer, self.batch, self.rank = what, layer, batch, rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx, trainer.global_rank) != (self.batch, self.rank):
            return
        layer: Any = pl_module.net.get_submodule(self.layer)  # type: ignore[union-attr]
        if self.what == "output":
            layer.register_forward_hook(lambda _, __, output: output * math.nan)
        elif self.what == "gradient":
            layer.weight.register_hook(lambda gradient: gradient * math.nan)
        elif self.what == "statistics":
            layer.running_var.fill_(math.nan)
        else:
            layer.weight.data.fill_(math.nan)


def spoil(what: str, layer: str, batch: int, rank: int = 0) -> list[str]:
    """Overrides that add it to a run."""
    values = {"_target_": f"{__name__}.Spoil", "what": what, "layer": layer, "batch": batch}
    return [f"+callbacks.spoil.{key}={value}" for key, value in (values | {"rank": rank}).items()]


def names_of_batches(overrides: list[str], stage: str) -> list[list[str]]:
    """The videos of each batch of the first pass."""
    data = build_datamodule(make_plan(resolve(compose_config("train", *overrides)), stage))
    data.setup()
    return [batch["video"] for batch in data.train_dataloader()]


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def command(tiny: tuple[str, ...], tmp_path: Path) -> list[str]:
    """A training of four steps a pass, with a directory of its own."""
    return [*tiny, *APPEARANCE, f"paths.run_dir={tmp_path / 'run'}"]


@pytest.fixture
def exploded(command: list[str], tmp_path: Path) -> Path:
    """What a run leaves whose loss has exploded, but is finite."""
    choices = ["callbacks.health.patience=3", "class_weights=[8,7,6,5,4,3,2,1]", f"{RATE}=100"]
    with pytest.raises(UserError, match=r"the loss, now .*more than 10 times 2\.08.*for 3 steps"):
        run_experiment(compose_config("train", *command, *choices))
    return tmp_path / "run" / "appearance" / "failed_step.ckpt"


def test_a_rate_far_too_high_is_one_line_with_the_videos(
    command: list[str],
    tmp_path: Path,
    call: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(train.main, *command, f"{RATE}=1e30") == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    line = next(line for line in error.splitlines() if line.startswith("error:"))
    found = re.search(
        r"stage appearance, pass 1 of 1, step (\d).*loss of appearance is (nan|inf); "
        r"videos of the batch: (.*); python -m src.train debug=replay replay=(\S+) ",
        line,
    )
    assert found
    assert found[3].split(", ") == names_of_batches(command, "appearance")[int(found[1])]
    assert found[4] == str(tmp_path / "run" / "appearance" / "failed_step.ckpt")
    files = sorted(tmp_path.rglob("*"))
    assert call(train.main, "debug=replay", f"replay={found[4]}") == 0
    assert sorted(tmp_path.rglob("*")) == files
    shown = capfd.readouterr().out
    assert all(name in shown for name in found[3].split(", "))
    assert "the loss itself" in shown


@pytest.mark.parametrize(
    ("what", "layer", "line"),
    [
        ("output", "motion.fc", "the loss of motion is nan; videos"),
        (
            "gradient",
            "motion.conv1",
            r"gradients of 1 of \d+ weights are not finite, from motion\.conv1",
        ),
        (
            "weight",
            "appearance.fc",
            r"of appearance is nan, 1 of \d+ weights were not finite before",
        ),
    ],
)
def test_what_is_not_finite_is_named(
    what: str, layer: str, line: str, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = [*tiny, *JOINT, f"paths.run_dir={tmp_path}"]
    with pytest.raises(UserError, match=line) as stopped:
        run_experiment(compose_config("train", *overrides, *spoil(what, layer, 2)))
    assert "step 2" in str(stopped.value)
    assert ", ".join(names_of_batches(overrides, "joint")[2]) in str(stopped.value)


def test_the_part_of_an_update_that_fails_is_the_one_that_is_saved(
    command: list[str], tmp_path: Path
) -> None:
    """Updates of two batches: the first batch of the second fails, before weights change."""
    command = [*command, "stages.appearance.batch_size=8"]
    with pytest.raises(UserError, match="step 1"):
        run_experiment(compose_config("train", *command, *spoil("gradient", "fc", 2)))
    step, module, _ = FailedStep.read(tmp_path / "run" / "appearance" / "failed_step.ckpt")
    assert step.batch["video"] == names_of_batches(command, "appearance")[2]
    assert all(bool(torch.isfinite(weight).all()) for weight in module.net.parameters())


def test_statistics_that_no_loss_depends_on_are_not_saved(
    command: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"pass 1: layer1\.0\.bn1\.running_var is not finite"):
        run_experiment(compose_config("train", *command, *spoil("statistics", "layer1.0.bn1", 1)))
    assert not (tmp_path / "run" / "appearance" / "last.ckpt").exists()


def test_a_failed_step_leaves_the_checkpoints_of_training(exploded: Path) -> None:
    step, module, description = FailedStep.read(exploded)
    previous = exploded.with_name("previous.ckpt")
    previous.write_bytes(b"of the training")
    step.save(exploded, description, module, module.build_optimizer())
    assert previous.read_bytes() == b"of the training"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_does_not_hide_what_was_found(command: list[str], tmp_path: Path) -> None:
    stage = tmp_path / "run" / "appearance"
    stage.mkdir(parents=True)
    for draft in (f".failed_step.ckpt.{os.getpid()}.part", "failed_step.ckpt.part"):
        (stage / draft).symlink_to("/dev/full")
    with pytest.raises(UserError, match="the loss of appearance is nan; videos"):
        run_experiment(compose_config("train", *command, *spoil("output", "fc", 1)))
    assert not (stage / "failed_step.ckpt").exists()


def test_training_goes_on_from_the_last_checkpoint(command: list[str], tmp_path: Path) -> None:
    stage = tmp_path / "run" / "appearance"
    run_experiment(compose_config("train", *command))
    (stage / "stage.json").unlink()
    last = (stage / "last.ckpt").read_bytes()
    command += ["trainer.max_epochs=2", "resume=force"]
    with pytest.raises(UserError, match=r"pass 2 .*resume=force goes on from the last checkpoint"):
        run_experiment(compose_config("train", *command, f"{RATE}=1e30"))
    assert (stage / "last.ckpt").read_bytes() == last
    run_experiment(compose_config("train", *command, f"{RATE}=1e-3"))
    assert (stage / "stage.json").is_file()
    rates = [row["lr-SGD/filter"] for row in metrics(stage / "csv" / "version_2")]
    rates = [rate for rate in rates if rate]
    assert len(rates) == 4
    assert all(0 < float(rate) <= 1e-3 for rate in rates)  # the checkpoint holds a higher one


def test_replay_repeats_the_loss_to_the_last_bit(
    exploded: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The classifier sees dropout, which is drawn again."""
    torch.manual_seed(123)
    files = sorted(exploded.parent.parent.rglob("*"))
    loss = replay(compose_config("train", *command, "debug=replay"))
    step, module, description = FailedStep.read(exploded)
    assert description.plan["net"]["dropout"] == 0.5
    assert loss == step.losses["appearance"] > 20
    assert sorted(exploded.parent.parent.rglob("*")) == files
    module.train()
    losses = [module.loss(*module.training_logits(step.batch)) for _ in range(2)]
    assert losses[0]["appearance"] != losses[1]["appearance"]  # it would not be by itself
    shown = capsys.readouterr().out
    numbers = [re.search(rf"{name} .* ([\d.e+]+) ", shown) for name in step.batch["video"]]
    of_videos = [float(number[1]) for number in numbers if number]
    assert sum(of_videos) / 4 == pytest.approx(loss, rel=1e-4)
    assert "output is not finite: none" in shown
    assert "grad_norm: " in shown


def test_replay_names_the_first_module(
    exploded: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(exploded, weights_only=True)
    content["state_dict"]["net.layer2.1.conv2.weight"].fill_(math.inf)
    torch.save(content, exploded)
    assert math.isnan(replay(compose_config("train", f"replay={exploded}")))
    shown = capsys.readouterr().out
    assert "not finite before the step: layer2.1.conv2.weight" in shown
    assert "output is not finite: layer2.1.conv2" in shown
    assert re.search(r"layer1 *│ *[\d.e+]+ │\n│ layer2 *│ *nan", shown)


def test_replay_names_the_operation() -> None:
    zero = torch.zeros(2, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        assert "SqrtBackward0" in str(backward((zero.sqrt() * 0).sum()))
        assert backward((zero * 2).sum()) is None


def test_replay_without_a_failed_step(command: list[str], finished_run: Path) -> None:
    with pytest.raises(UserError, match=r"no stage in .* was stopped by a failed step"):
        replay(compose_config("train", *command, "debug=replay"))
    last = finished_run / "appearance" / "last.ckpt"
    with pytest.raises(UserError, match="holds no step to replay"):
        replay(compose_config("train", "debug=replay", f"replay={last}"))


def test_a_step_of_another_network_is_one_line(finished_run: Path, tmp_path: Path) -> None:
    content = torch.load(finished_run / "appearance" / "last.ckpt", weights_only=True)
    step = dict.fromkeys(("found", "where", "losses", "batch", "random"))
    for weights in ("", "state_dict"):
        torch.save({KEY: content[KEY], STEP: step, weights: {}}, tmp_path / "failed_step.ckpt")
        with pytest.raises(UserError, match="describes no network that can be built"):
            FailedStep.read(tmp_path / "failed_step.ckpt")


def test_explosion() -> None:
    def steps(losses: list[float]) -> int | None:
        explosion = Explosion(10, 3, chance=2.0)
        return next((n for n, loss in enumerate(losses) if explosion.found(loss)), None)

    assert steps([19.0] * 50) is None  # a bad start
    assert steps([21.0] * 3) == 2
    assert steps([2.0, 21, 21, 2, 21, 21]) is None  # never three in a row
    assert steps([0.01] * 100 + [1.9] * 10) is None  # better than chance
    assert steps([0.1] * 100 + [2.1] * 10) == 102
    assert steps([2 * 1.02**n for n in range(300)]) is None  # it rises slowly
    assert steps([2.0, 1e30, 1e30, 1e30]) == 3


def test_an_explosion_is_measured_by_the_losses_before_a_stop() -> None:
    before, after = Health(), Health()
    before.explosion = Explosion(10, 3, chance=2.0, recent=[0.1] * 100)
    after.load_state_dict(before.state_dict())
    module = build("rgb")
    module.last_losses = {"appearance": torch.tensor(1.5)}
    after.losses = [1.5]
    assert after._lost(module, None) is None
    assert after.explosion is not None
    assert list(after.explosion.recent)[:99] == [0.1] * 99


class Norms(pl.Callback):
    """The norms of the gradients of each step, of all and of each stream, summed by hand."""

    def __init__(self) -> None:
        self.norms: list[dict[str, float]] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        squares = {"": 0.0, "_appearance": 0.0, "_motion": 0.0}
        for name, parameter in pl_module.named_parameters():
            assert parameter.grad is not None
            for key in ("", f"_{name.split('.')[1]}"):
                squares[key] += float((parameter.grad.double() ** 2).sum())
        self.norms.append({key: math.sqrt(square) for key, square in squares.items()})


def test_gradient_norms_are_logged(tmp_path: Path) -> None:
    """As often as the rest; of updates, not of the batches that are accumulated for one."""
    by_hand = Norms()
    pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[by_hand, Health()],
        logger=CSVLogger(tmp_path, name="", version="csv"),
        log_every_n_steps=2,
        accumulate_grad_batches=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(build("joint"), loader([random_batch() for _ in range(8)]))
    rows = [row for row in metrics(tmp_path / "csv") if row["train/grad_norm"]]
    assert [row["step"] for row in rows] == ["1", "3"]
    for row in rows:
        for key, norm in by_hand.norms[int(row["step"])].items():
            assert float(row[f"train/grad_norm{key}"]) == pytest.approx(norm, rel=1e-4)


class Scaled(Health):
    """Health that remembers the scale of the loss in each step."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self.scales = [*getattr(self, "scales", []), trainer.precision_plugin.scaler.get_scale()]  # type: ignore[attr-defined]
        super().on_before_optimizer_step(trainer, *arguments)


def fit_scaled(first_scale: float, spoiled: bool, folder: Path) -> tuple[Scaled, dict[str, Tensor]]:
    """Train in float16 on the CPU with a scaled loss; the weights that come out."""
    module, health = build("rgb"), Scaled()
    if spoiled:
        module.net.fc.weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore
    scaler = torch.amp.GradScaler("cpu", init_scale=first_scale)
    plan = {"stage": "appearance"}
    description: Any = type("Description", (), {"plan": plan})
    trainer = pl.Trainer(
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        callbacks=[health, DescribeCheckpoint(description)],
        default_root_dir=folder,
        logger=False,
        max_epochs=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader([random_batch() for _ in range(4)]))
    return health, module.state_dict()


def test_norms_are_those_of_the_loss_whoever_divides_by_the_scale(tmp_path: Path) -> None:
    """Fused optimisers divide in the update, after the norms are logged."""
    logged = []
    for fused in (None, True):
        torch.manual_seed(0)
        optimizer = partial(torch.optim.SGD, momentum=0.9, fused=fused)
        folder = tmp_path / str(fused)
        pl.Trainer(
            accelerator="cpu",
            plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", 2.0**10))],
            callbacks=[Health()],
            logger=CSVLogger(folder, name="", version="csv"),
            log_every_n_steps=1,
            max_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(build("rgb", optimizer=optimizer), loader([random_batch() for _ in range(2)]))
        logged.append([float(row["train/grad_norm"]) for row in metrics(folder / "csv")[:2]])
    assert logged[1] == pytest.approx(logged[0], rel=0.05)


def test_gradients_that_overflow_under_a_scaler_are_left_out(tmp_path: Path) -> None:
    health, weights = fit_scaled(2.0**24, spoiled=False, folder=tmp_path)
    assert health.scales[0] == 2.0**24
    assert health.scales[-1] < health.scales[0]  # updates were left out
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


def test_gradients_that_no_scale_mends_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FailedStep, "save", lambda *_: None)
    with pytest.raises(UserError, match=r"step 2.*gradients of 1 of \d+ weights.*fc\.weight back"):
        fit_scaled(2.0, spoiled=True, folder=tmp_path)


@pytest.mark.parametrize(
    "wrong", ["explosion=1", "explosion=nan", "explosion=much", "patience=0", "patience=1.5"]
)
def test_impossible_arguments_are_refused(wrong: str, command: list[str]) -> None:
    name = wrong.split("=")[0]
    cfg = compose_config("train", *command, f"callbacks.health.{wrong}")
    with pytest.raises(Exception, match=rf"callbacks\.health\.{name}=.*needs a"):
        run_experiment(cfg)


def test_all_processes_stop_with_the_line_of_the_one_that_saw_it(
    command: list[str], tmp_path: Path
) -> None:
    """By the time of the update the gradients of both are not finite; the loss is of one alone."""
    spoiled = ["stages.appearance.batch_size=8", *spoil("output", "fc", 1, rank=1)]
    status, told = train_as_two([*command, *spoiled], tmp_path)
    assert status == [1, 1]
    assert "Traceback" not in told
    errors = {line for line in told.splitlines() if line.startswith("error:")}
    assert len(errors) == 1
    (error,) = errors
    assert re.search(r"step 1, .*the loss of appearance is nan; videos", error)
    step, _, _ = FailedStep.read(tmp_path / "run" / "appearance" / "failed_step.ckpt")
    in_order = [name for batch in names_of_batches(command, "appearance") for name in batch]
    assert step.batch["video"] == in_order[1::2][4:8]  # dealt in turn
