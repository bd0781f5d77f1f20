"""A run whose loss or gradients are not finite stops before the update; other callbacks run on."""

import csv
import math
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
from torch.testing import assert_close

from src import train
from src.experiment.build import build_datamodule
from src.experiment.config import stage_config
from src.training.non_finite_guard import NonFiniteGuard
from src.training.pipeline import run_experiment
from src.utils.errors import UserError
from tests.conftest import compose_config
from tests.models.test_modules import build, loader, random_batch, trainer
from tests.processes import run_as_ranks

FOUR_STEPS = ("stages.appearance.effective_batch_size=4", "stages.appearance.data.batch_size=4")
APPEARANCE = ("experiment=appearance_two_movers", *FOUR_STEPS)
JOINT = (
    "run_stages=joint",
    "stages.joint.init_from.appearance=null",
    "stages.joint.init_from.motion=null",
    "stages.joint.effective_batch_size=4",
    "stages.joint.data.batch_size=4",
)
RATE = "stages.appearance.optimizer.lr"


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
    """The videos of each batch of the first epoch."""
    data = build_datamodule(stage_config(compose_config("train", *overrides), stage))
    data.setup()
    return [batch["video"] for batch in data.train_dataloader()]


def metrics(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def command(tiny: tuple[str, ...], tmp_path: Path) -> list[str]:
    """A training of four steps an epoch, with a directory of its own."""
    return [*tiny, *APPEARANCE, f"paths.run_dir={tmp_path / 'run'}"]


@pytest.mark.slow
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
        r"stage appearance, epoch 1/1, step (\d): loss of appearance is (nan|inf); "
        r"videos of the batch: (.*); run the same command with \+trainer\.detect_anomaly=true",
        line,
    )
    assert found
    assert found[3].split(", ") == names_of_batches(command, "appearance")[int(found[1])]
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_hint_names_the_operation(command: list[str]) -> None:
    spoiled = [*spoil("output", "fc", 1), "+trainer.detect_anomaly=true"]
    line = "Function '.*' returned nan values.*: the last lines of the warning above"
    with (
        pytest.warns(UserWarning, match=r"Error detected in .*Traceback of forward call"),
        pytest.raises(UserError, match=line),
    ):
        run_experiment(compose_config("train", *command, *spoiled))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "layer", "line"),
    [
        ("output", "motion.fc", ": loss of motion is nan; videos"),
        ("gradient", "motion.conv1", ": grad_norm_motion is nan; videos"),
        ("weight", "appearance.fc", ": loss of appearance is nan; videos"),
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


def test_the_batch_to_blame_in_an_update_of_several(command: list[str]) -> None:
    """Updates of two batches: the first batch of the second fails, before weights change."""
    command = [*command, "stages.appearance.effective_batch_size=8"]
    with pytest.raises(UserError, match="step 1") as stopped:
        run_experiment(compose_config("train", *command, *spoil("gradient", "fc", 2)))
    videos = ", ".join(names_of_batches(command, "appearance")[2])
    assert f"videos of the batch: {videos};" in str(stopped.value)


def test_weights_are_those_before_the_update() -> None:
    module = build("rgb")
    before = {name: weight.clone() for name, weight in module.net.named_parameters()}
    guarded = trainer(max_epochs=1, callbacks=[Spoil("gradient", "fc", 0), NonFiniteGuard()])
    with pytest.raises(UserError, match="step 0: grad_norm is nan"):
        guarded.fit(module, loader([random_batch()]))
    assert_close(dict(module.net.named_parameters()), before, rtol=0, atol=0)


def test_statistics_that_no_loss_depends_on_are_not_saved(
    command: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"epoch 1/1: layer1\.0\.bn1\.running_var is not finite"):
        run_experiment(compose_config("train", *command, *spoil("statistics", "layer1.0.bn1", 1)))
    assert not (tmp_path / "run" / "appearance" / "last.ckpt").exists()


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
        callbacks=[by_hand, NonFiniteGuard()],
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


class Scaled(NonFiniteGuard):
    """A guard that remembers the scale of the loss in each step."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self.scales = [*getattr(self, "scales", []), trainer.precision_plugin.scaler.get_scale()]  # type: ignore[attr-defined]
        super().on_before_optimizer_step(trainer, *arguments)


def fit_scaled(first_scale: float, spoiled: str | None = None) -> tuple[Scaled, dict[str, Tensor]]:
    """Train in float16 on the CPU with a scaled loss; the weights that come out."""
    module, guard = build("rgb"), Scaled()
    scaler = torch.amp.GradScaler("cpu", init_scale=first_scale)
    trainer(
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        callbacks=[guard, *([Spoil(spoiled, "fc", 0)] if spoiled else [])],
        max_epochs=1,
    ).fit(module, loader([random_batch() for _ in range(4)]))
    return guard, module.state_dict()


def test_norms_are_those_of_the_loss_whoever_divides_by_the_scale(tmp_path: Path) -> None:
    """Fusion optimizers divide in the update, after the norms are logged."""
    logged = []
    for fused in (None, True):
        torch.manual_seed(0)
        optimizer = partial(torch.optim.SGD, momentum=0.9, fused=fused)
        folder = tmp_path / str(fused)
        pl.Trainer(
            accelerator="cpu",
            plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", 2.0**10))],
            callbacks=[NonFiniteGuard()],
            logger=CSVLogger(folder, name="", version="csv"),
            log_every_n_steps=1,
            max_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(build("rgb", optimizer=optimizer), loader([random_batch() for _ in range(2)]))
        logged.append([float(row["train/grad_norm"]) for row in metrics(folder / "csv")[:2]])
    assert logged[1] == pytest.approx(logged[0], rel=0.05)


def test_gradients_that_overflow_under_a_scaler_are_left_out() -> None:
    guard, weights = fit_scaled(2.0**24)
    assert guard.scales[0] == 2.0**24
    assert guard.scales[-1] < guard.scales[0]  # updates were skipped
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


@pytest.mark.parametrize(
    ("spoiled", "line"),
    [
        ("output", "step 0: loss of appearance is nan"),
        # Twice the scaler halves the scale, to below one: it did not make them overflow.
        ("gradient", "step 2: grad_norm is nan"),
    ],
)
def test_what_no_scale_mends_stops_the_run(spoiled: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        fit_scaled(2.0, spoiled)


@pytest.mark.slow
def test_all_processes_stop_with_the_line_of_the_one_that_saw_it(
    command: list[str], tmp_path: Path
) -> None:
    """By the time of the update the gradients of both are not finite; the loss is of one alone."""
    spoiled = ["stages.appearance.effective_batch_size=8", *spoil("output", "fc", 1, rank=1)]
    status, told = run_as_ranks([*command, *spoiled], tmp_path)
    assert status == [1, 1]
    assert "Traceback" not in told
    errors = {line for line in told.splitlines() if line.startswith("error:")}
    assert len(errors) == 1
    (error,) = errors
    assert re.search(r"step 1: loss of appearance is nan; videos", error)
    in_order = [name for batch in names_of_batches(command, "appearance") for name in batch]
    assert ", ".join(in_order[1::2][4:8]) in error  # dealt in turn


SWA = (
    "+callbacks.swa={_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, "
    "swa_lrs: 0.01}"
)
LR_FINDER = (
    "+callbacks.lr_finder={_target_: pytorch_lightning.callbacks.LearningRateFinder, "
    "num_training_steps: 4}"
)


@pytest.mark.slow
@pytest.mark.parametrize("clips", [4, 8], ids=["", "accumulated"])
def test_averaging_of_weights_has_an_epoch_without_a_backward_pass(
    clips: int, command: list[str], tmp_path: Path
) -> None:
    command = [*command, "trainer.max_epochs=2", f"stages.appearance.effective_batch_size={clips}"]
    run_experiment(compose_config("train", *command, SWA))
    assert (tmp_path / "run" / "appearance" / "stage.json").is_file()
    rows = metrics(tmp_path / "run" / "appearance" / "csv")
    norms = [row for row in rows if row["train/grad_norm"]]
    assert len(norms) == 2 * 16 // clips
    assert [row["epoch"] for row in rows if row["train/loss_epoch"]] == ["0", "1", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["constant", "warmup_cosine"])
def test_a_learning_rate_finder_fits_within_the_fit(
    scheduler: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it finds is what is trained with: multiplied, warmed up, and after a stop."""
    finder = "pytorch_lightning.tuner.lr_finder._LRFinder.suggestion"
    monkeypatch.setattr(finder, lambda *_: 0.02)
    chosen = f"lr_scheduler@stages.appearance.lr_scheduler={scheduler}"
    run_experiment(compose_config("train", *command, LR_FINDER, chosen))
    stage = tmp_path / "run" / "appearance"
    assert (stage / "stage.json").is_file()
    assert not list(stage.glob(".lr_find*"))
    rows = metrics(stage / "csv")
    assert len([row for row in rows if row["train/grad_norm"]]) == 4
    first = next(row for row in rows if row["lr-SGD/weight"])
    begin = 0.02 * (0.01 if scheduler == "warmup_cosine" else 1)
    assert float(first["lr-SGD/weight"]) == pytest.approx(begin)
    assert float(first["lr-SGD/bias"]) == pytest.approx(2 * begin)
    groups = torch.load(stage / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert {group["initial_lr"] for group in groups["param_groups"]} == {0.02, 0.04}

    (stage / "stage.json").unlink()
    run_experiment(compose_config("train", *command, LR_FINDER, chosen))  # tested again alone
    assert torch.load(stage / "last.ckpt", weights_only=True)["global_step"] == 4
    more = ("trainer.max_epochs=2", "resume=force")
    with pytest.raises(UserError, match=r"give the rate as stages\.appearance\.optimizer"):
        run_experiment(compose_config("train", *command, LR_FINDER, chosen, *more))
