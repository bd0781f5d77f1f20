"""Callbacks of a stage: its seeds, what its checkpoints carry, a log line per epoch, averages."""

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from src.experiment.checkpoint import KEY, CheckpointMetadata
from src.training.search import FOLDER, PRUNED, PRUNER, choose, open_study

log = logging.getLogger(__name__)
WATCHED = "val/clip/top1"  # of each epoch, for Optuna's pruner


class SeedSteps(Callback):
    """Seeds what a training step draws (dropout, mixing) by the run's seed, epoch, batch and rank.

    So a run that was stopped anywhere draws the same numbers as one that was not, whatever else has
    drawn in between, and ranks draw different ones.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, *step: Any) -> None:
        """Seed the generators of all devices."""
        _, _, batch_idx = step
        place = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))


class OneSetOfStatistics(Callback):
    """Has all ranks validate with the first one's running statistics, as checkpoints hold them.

    Lightning does the same before a test. Without `sync_batchnorm` each rank has its own in
    training, where nothing depends on them.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the first rank's to the others."""
        if trainer.world_size > 1:
            for buffer in pl_module.get_submodule("net").buffers():
                torch.distributed.broadcast(buffer, 0)


class OwnGradients(Callback):
    """Adds up the gradients of an update in memory of their own.

    Needed where a network is replayed as CUDA graphs: the first part of the update would leave its
    gradients in memory of the graphs, where the second part's come to lie.
    """

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Begin an update of several parts with zeros."""
        if trainer.accumulate_grad_batches > 1:
            for parameter in pl_module.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)


class DescribeCheckpoint(Callback):
    """Adds the metadata to every checkpoint that Lightning writes."""

    def __init__(self, metadata: CheckpointMetadata) -> None:
        self.metadata = metadata

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add it as plain data."""
        checkpoint[KEY] = asdict(self.metadata)


class FollowConfig(Callback):
    """Has a training that resumes under another config follow that one: its rates, its optimizer.

    A checkpoint holds the rates and options of the config that it was trained with. Here a new
    scheduler takes as many steps as the training has behind it. Epochs count, not updates: with a
    batch of another size there were more or fewer of them.
    """

    def __init__(self, updates_per_epoch: int) -> None:
        self.updates = updates_per_epoch

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the new rates and options in the place of the checkpoint's."""
        chosen: Any = pl_module.configure_optimizers()
        optimizer, entry = chosen["optimizer"], chosen.get("lr_scheduler")
        if entry and isinstance(entry["scheduler"], ReduceLROnPlateau):
            return  # its rates follow from what was measured
        checkpoint["lr_schedulers"] = []
        if entry is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of steps of the scheduler without the optimizer's
                for _ in range(self._steps(trainer, checkpoint, entry["interval"])):
                    entry["scheduler"].step()
            checkpoint["lr_schedulers"] = [entry["scheduler"].state_dict()]
        checkpoint["optimizer_states"][0]["param_groups"] = optimizer.state_dict()["param_groups"]

    def _steps(self, trainer: Trainer, checkpoint: dict[str, Any], interval: str) -> int:
        within = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        whole_epochs = checkpoint["epoch"] + within["is_last_batch"]
        if interval == "epoch":
            return int(whole_epochs)
        begun = 0 if within["is_last_batch"] else within["current"]["ready"]
        return int(whole_epochs) * self.updates + begun // trainer.accumulate_grad_batches


class EpochLine(Callback):
    """Logs loss, clip-level accuracy and time after every epoch.

    `validated` is the part of the data that is validated on, in words.
    """

    def __init__(self, stage: str, validated: str) -> None:
        self.stage, self.validated, self.start = stage, validated, 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.start = time.monotonic()

    on_train_start = on_train_epoch_start  # of an epoch that continues in its middle

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the line; validation of this epoch is over by now."""
        seconds = time.monotonic() - self.start
        metrics = trainer.callback_metrics  # all ranks put them together
        if not trainer.is_global_zero:
            return
        parts = [f"{self.stage}: epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        for key, title, unit in (
            ("train/loss_epoch", "loss {:.3f}", 1),
            ("train/clip/top1", "top-1 of train clips {:.1f} %", 100),
            ("val/clip/top1", f"of central {self.validated} clips {{:.1f}} %", 100),
        ):
            if key in metrics:
                parts.append(title.format(unit * float(metrics[key])))
        log.info("%s, %.1f s", ", ".join(parts), seconds)


class EMA(WeightAveraging):
    """Averages weights and batch norm statistics after every update: average += (1 - d) * change.

    Validation and, after training, testing and the checkpoint's weights are the average; the
    checkpoint also holds what training resumes from. The n-th update has d = min(decay, n / (n +
    9)), so that a short training is not stuck with its first weights.

    Lightning's own `EMAWeightAveraging` has no such start, rounds what does not change, keeps
    the average on the CPU when training on a GPU, and leaves a run that was stopped between its
    last epoch and its test with the weights of the last update.

    Args:
        decay: 0..1, the longest memory: about 1 / (1 - decay) updates.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay={decay}: needs a number from 0, less than 1")
        self.decay = decay
        super().__init__(multi_avg_fn=self._update)

    def _update(self, averages: Sequence[Tensor], now: Sequence[Tensor], updates: Any) -> None:
        """Update tensors of one type in place; `updates` counts those before this one."""
        if averages[0].is_floating_point():
            count = int(updates) + 1
            decay = min(self.decay, count / (count + 9))
            torch._foreach_lerp_(list(averages), list(now), 1 - decay)  # exact where nothing moves
        else:
            torch._foreach_copy_(list(averages), list(now))  # counters

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module, which was still on the CPU when the average was made."""
        if self._average_model is not None:
            self._average_model.to(pl_module.device)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the average, also when a checkpoint left no epoch to train."""
        if self._average_model is not None:
            self._copy_average_to_current(pl_module)


class Prune(Callback):
    """Reports the clip-level accuracy of each epoch, and ends the training if Optuna says so.

    The first process asks; all of them follow.

    Args:
        journal, number: the file of the search, and the number of this trial.
        folder: the run directory, for the report.
    """

    def __init__(self, journal: str, number: int, folder: str) -> None:
        self.journal, self.number, self.folder = journal, number, folder
        self.pruned = False  # whether the training was ended
        self._trial: Any = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report; validation of this epoch is over by now."""
        value = trainer.callback_metrics.get(WATCHED)
        if value is None:
            if trainer.is_global_zero and not trainer.current_epoch:
                log.warning("without validation no trial is pruned: there is no %s", WATCHED)
            return
        done = trainer.current_epoch + 1
        prune = trainer.is_global_zero and self._should_end(done, float(value))
        last = done == trainer.max_epochs
        if trainer.strategy.broadcast(prune) and not last:
            self.pruned = trainer.should_stop = True
            if trainer.is_global_zero:
                self._trial.set_user_attr(PRUNED, done)
                log.info("trial %d is pruned after epoch %d", self.number, done)

    def _should_end(self, done: int, value: float) -> bool:
        self._trial = self._trial or self._open()
        if done not in self._trial.storage.get_trial(self._trial._trial_id).intermediate_values:
            self._trial.report(value, done)
        return bool(self._trial.should_prune())

    def _open(self) -> Any:
        import optuna

        study = open_study(Path(self.journal))
        name, options = study.user_attrs[PRUNER]
        study.pruner = choose(optuna.pruners, name, options, PRUNER)
        trial_id = study.get_trials(deepcopy=False)[self.number]._trial_id
        trial = optuna.trial.Trial(study, trial_id)
        trial.set_user_attr(FOLDER, self.folder)
        return trial
