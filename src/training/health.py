"""Is training in good health? Gradient norms are logged, and a run that is lost is stopped.

A loss or a gradient that is not finite stops the run before the weights change, and a loss that has
exploded soon after it did. What is needed to run the step again is saved beside the checkpoint:
`src.training.replay` does.
"""

import logging
import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from src.commands import shown_command
from src.errors import UserError
from src.models.modules import Batch, VideoClassifier
from src.training.callbacks import description_of
from src.training.failed_step import FailedStep, random_state
from src.training.run_dir import StageDir

log = logging.getLogger(__name__)
_Report = tuple[int, bool, int, str]  # part of the update, is its loss finite, process, line
WINDOW, KNOWN_AT_FIRST = 100, 20  # steps whose losses are recent; as many as chance counts for


class Health(pl.Callback):
    """Logs the norms of gradients, and stops a run that is lost with one line and a file.

    Each step waits once for the device, after the backward pass, to look at the losses and at the
    norm of the gradients. With accumulated gradients that is each part of an update, so that the
    part to blame is the one that is saved.

    Under float16 with a scaled loss, gradients overflow now and then; the scaler leaves such an
    update out and lowers the scale. They stop the run only when the scale is below one, and so not
    what made them overflow. A loss that is not finite always stops it: no scale mends a forward
    pass, and running statistics of batch norm have taken it in.

    In a group of processes all stop at the same step, with the line of the first that found
    something in its own batch.

    Args:
        explosion: see `Explosion`; None never stops for it.
        patience: likewise.
    """

    def __init__(self, explosion: float | None = 10, patience: int = 5) -> None:
        number = isinstance(explosion, int | float) and math.isfinite(explosion)
        if explosion is not None and not (number and explosion > 1):
            raise ValueError(f"callbacks.health.explosion={explosion}: needs a number above 1")
        if not isinstance(patience, int) or patience < 1:
            raise ValueError(
                f"callbacks.health.patience={patience}: needs a whole number of steps from 1"
            )
        self.factor, self.patience = explosion, patience
        self.explosion: Explosion | None = None
        self._earlier: list[float] = []  # losses before a stop
        self._forget_update()

    def state_dict(self) -> dict[str, Any]:
        """The losses of the last steps."""
        return {"recent": list(self.explosion.recent) if self.explosion else self._earlier}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Measure the next loss by those before the stop."""
        self._earlier = list(state_dict["recent"])

    def _forget_update(self) -> None:
        self.losses: list[float] = []  # of the parts of this update
        self.failed: FailedStep | None = None  # the first of them that did
        self.failed_part = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember what the step starts from, apart from the weights."""
        self.batch, self.random = batch, random_state(pl_module.device)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the losses and, unless they are scaled, at the gradients."""
        module = _ours(pl_module)
        numbers = list(module.last_losses.values())
        if _scaler(trainer) is None:
            numbers.append(get_total_norm(_gradients(module.net)))
        values = torch.stack([number.float() for number in numbers]).tolist()  # waits
        losses = dict(zip(module.last_losses, values, strict=False))
        self.losses.append(sum(losses.values()))
        if not all(map(math.isfinite, values)) and self.failed is None:
            self._fail(trainer, module, what_is_not_finite(module, losses))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Stop before the update if there is a reason to; else log the norms now and then."""
        module = _ours(pl_module)
        if self.failed is None and (found := self._lost(module, _scaler(trainer))):
            self._fail(trainer, module, found)
        if trainer.strategy.reduce_boolean_decision(self.failed is not None, all=False):
            self._stop(trainer, module, optimizer)
        self._forget_update()
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:
            norms = gradient_norms(module.net, module.last_losses)
            scale = _scale_left_to(optimizer, _scaler(trainer))
            module.log_dict({f"train/{name}": norm / scale for name, norm in norms.items()})

    def _lost(self, module: VideoClassifier, scaler: Any) -> str | None:
        """Why the run is lost although losses, and gradients without a scaler, are finite."""
        if scaler is not None and scaler.get_scale() < 1:
            norm = get_total_norm(_gradients(module.net))
            if not bool(torch.isfinite(norm)):
                return what_is_not_finite(module, {})
        if self.factor is None:
            return None
        if self.explosion is None:
            chance = len(module.last_losses) * math.log(module.num_classes)
            self.explosion = Explosion(self.factor, self.patience, chance, self._earlier)
        return self.explosion.found(mean(self.losses))

    def _fail(self, trainer: pl.Trainer, module: VideoClassifier, found: str) -> None:
        scaler = _scaler(trainer)
        self.failed_part = len(self.losses)
        self.failed = FailedStep(
            found=found,
            where=(
                f"stage {description_of(trainer).plan['stage']}, pass {trainer.current_epoch + 1} "
                f"of {trainer.max_epochs}, step {trainer.global_step}, learning rate "
                f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}"
            ),
            losses={stream: float(loss) for stream, loss in module.last_losses.items()},
            batch=self.batch,
            random=self.random,
            loss_scale=1.0 if scaler is None else scaler.get_scale(),
        )

    def _stop(
        self, trainer: pl.Trainer, module: VideoClassifier, optimizer: torch.optim.Optimizer
    ) -> None:
        """Save the step of the first process that has one, and raise its line in all of them."""
        path = StageDir(Path(trainer.default_root_dir)).failed_step
        own: _Report | None = None
        if self.failed is not None:
            loss_is_finite = all(map(math.isfinite, self.failed.losses.values()))
            own = (self.failed_part, loss_is_finite, trainer.global_rank, _line(self.failed))
        reports: list[_Report | None] = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(reports, own)
        # By now gradients are those of all processes: whose loss was not finite knows better.
        _, _, rank, line = min(report for report in reports if report is not None)
        if rank == trainer.global_rank and self.failed is not None:
            try:
                self.failed.save(path, description_of(trainer), module, optimizer)
            except (OSError, RuntimeError) as error:  # a full disk; torch tells it as the latter
                log.warning("%s cannot be written: %s", path, error)
        trainer.strategy.barrier()  # nobody ends before the file is whole
        begun = StageDir(path.parent).checkpoint.is_file()
        raise UserError(
            f"{line}; {shown_command('train', 'debug=replay', ('replay', path))} shows where it "
            "comes from; the same command with a lower learning rate "
            + ("and resume=force goes on from the last checkpoint" if begun else "starts again")
        )

    def on_train_batch_end(self, *_: Any) -> None:
        """Let go of the batch."""
        del self.batch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before running statistics that are not finite are saved: no loss depends on them."""
        bad = not_finite(_ours(pl_module).net.state_dict())
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            raise UserError(
                f"stage {description_of(trainer).plan['stage']}, pass {trainer.current_epoch + 1}: "
                f"{bad[0] if bad else 'a running statistic'} is not finite, which validation and "
                "test depend on but the loss of training does not: look at the weights that this "
                "stage starts from, and at its videos"
            )


class Explosion:
    """Tells when the loss has exploded.

    That is so when it is higher than a factor of the median of the last losses, and than that of a
    net that knows nothing, for several steps in a row. The losses before the first count as those
    of a net that knows nothing; losses that are too high are not among the last ones.

    Args:
        factor: of the median.
        patience: steps in a row.
        chance: the loss of a net that knows nothing.
        recent: the last losses, if there are any.
    """

    def __init__(
        self, factor: float, patience: int, chance: float, recent: Iterable[float] = ()
    ) -> None:
        self.factor, self.patience, self.chance = factor, patience, chance
        self.recent = deque(list(recent) or [chance] * KNOWN_AT_FIRST, maxlen=WINDOW)
        self.too_high = 0

    def found(self, loss: float) -> str | None:
        """Take in the loss of a step; what has happened, in words, if it is an explosion."""
        usual = median(self.recent)
        if loss <= max(self.factor * usual, self.chance):
            self.recent.append(loss)
            self.too_high = 0
            return None
        self.too_high += 1
        if self.too_high < self.patience:
            return None
        return (
            f"the loss, now {loss:.4g}, has been more than {self.factor:g} times {usual:.3g}, the "
            f"median of those before, for {self.too_high} steps"
        )


def gradient_norms(net: nn.Module, streams: Collection[str]) -> dict[str, Tensor]:
    """The norm of all gradients as "grad_norm", and that of each of several streams by its name."""
    norms = {"grad_norm": get_total_norm(_gradients(net))}
    if len(streams) > 1:
        for stream in streams:
            norms[f"grad_norm_{stream}"] = get_total_norm(_gradients(net.get_submodule(stream)))
    return norms


def what_is_not_finite(module: VideoClassifier, losses: Mapping[str, float]) -> str:
    """In words: the losses and the weights that are not finite, or else the gradients."""
    parameters = dict(module.net.named_parameters())
    found = [
        f"the loss of {stream} is {loss}"
        for stream, loss in losses.items()
        if not math.isfinite(loss)
    ]
    if weights := not_finite(parameters):
        count = f"{len(weights)} of {len(parameters)}"
        found.append(f"{count} weights were not finite before the step, {weights[0]} first")
    if found:
        return ", ".join(found)
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    if bad := not_finite(gradients):
        return (
            f"the gradients of {len(bad)} of {len(parameters)} weights are not finite, from "
            f"{bad[-1]} back"
        )
    return "the gradients are too large for their norm to be finite"


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold a number that is not finite."""
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]


def _gradients(net: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in net.parameters() if parameter.grad is not None]


def _line(step: FailedStep) -> str:
    return f"{step.where}: {step.found}; videos of the batch: {', '.join(step.batch['video'])}"


def _scaler(trainer: pl.Trainer) -> Any:
    """What scales the loss for float16, None if nothing does."""
    return getattr(trainer.precision_plugin, "scaler", None)


def _scale_left_to(optimizer: torch.optim.Optimizer, scaler: Any) -> float:
    """What gradients are still multiplied by before the update: fused optimisers divide in it."""
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return float(scaler.get_scale())


def _ours(module: pl.LightningModule) -> VideoClassifier:
    assert isinstance(module, VideoClassifier)
    return module
