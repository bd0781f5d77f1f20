"""When and how a stage's checkpoints are written: the last one, the one before it, the best."""

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from src.experiment.run_dir import BEST, previous
from src.training.stop import EndAtSignals
from src.utils.errors import UserError, first_line


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when complete; the one before stays.

    Lightning writes it into the folder for temporary files and moves it: from one file system to
    another that is a copy, and a process that is ended meanwhile leaves half a checkpoint. It also
    keeps a second copy of everything in memory. And file systems lose what they promised to keep.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`; a draft that stays behind is overwritten by the next.

        Raises:
            UserError: it cannot be written; those that are there stay as they are.
        """
        target = Path(path)
        draft = target.with_name(f"{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # before the name, so that a machine may fail too
            if target.exists() and target.name != BEST:  # which training never resumes from
                _keep(target)
            draft.replace(target)
        except (OSError, RuntimeError) as error:  # torch's writer makes one of the other
            with contextlib.suppress(OSError):
                draft.unlink()
            raise UserError(
                f"checkpoint {target} cannot be written ({_reason(error)}): make room or fix the "
                "folder, then rerun the same command to resume from the checkpoint that is there"
            ) from error


def _keep(checkpoint: Path) -> None:
    """Make it the previous one, in its own place as well where the file system can do that."""
    kept = previous(checkpoint)
    kept.unlink(missing_ok=True)
    try:
        kept.hardlink_to(checkpoint)
    except OSError:
        checkpoint.replace(kept)


def _reason(error: BaseException) -> str:
    """What the system said, under whatever torch has made of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return first_line(error)


class StageCheckpoint(ModelCheckpoint):
    """Writes one file, over and over.

    Within an epoch it is written between updates only, so that no gradients need to be kept. All
    ranks write together: whether one is asked to stop, or a clock is ahead, is agreed on first.

    Args:
        file: the checkpoint.
        minutes: from one to the next while an epoch is trained; None: after epochs only.
        stop: knows whether this process was asked to end.
    """

    def __init__(self, file: Path, minutes: float | None, stop: EndAtSignals) -> None:
        super().__init__(
            dirpath=file.parent,
            filename=file.stem,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.minutes, self.stop, self._saved_at = minutes, stop, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; end at once if early stopping had ended the training before a stop."""
        super().on_train_start(trainer, pl_module)
        self._saved_at = time.monotonic()
        for callback in trainer.early_stopping_callbacks:
            if callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
                trainer.should_stop = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """Save if it is time, or if this process is to end."""
        _, _, batch_idx = step
        if batch_idx + 1 == trainer.num_training_batches:
            return  # the epoch's own checkpoint is near
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            seconds = math.inf if self.minutes is None else 60 * self.minutes
            due, asked = self._agree(trainer, time.monotonic() - self._saved_at >= seconds)
            if due or asked:
                self._save_topk_checkpoint(trainer, {})
                self._saved_at = time.monotonic()
            # a run that continues would leave out a validation that follows this step
            every = trainer.val_check_batch
            validates_next = trainer.enable_validation and every and (batch_idx + 1) % every == 0
            if asked and not validates_next:  # else after the next update
                self.stop.end(asked)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after every epoch, and end then if asked to in its last step or in validation."""
        super().on_train_epoch_end(trainer, pl_module)
        self._saved_at = time.monotonic()
        _, asked = self._agree(trainer)
        if asked:  # not here: what the epoch has come to is logged after this
            self.stop.asked, trainer.should_stop = asked, True

    def _agree(self, trainer: Trainer, due: bool = False) -> tuple[bool, int]:
        """Whether it is time on any rank, and the signal that any was asked to end by, else 0."""
        asked = self.stop.asked or 0
        if trainer.world_size == 1:
            return due, asked
        wishes = torch.tensor([due, asked], dtype=torch.int32, device=trainer.strategy.root_device)
        due_anywhere, asked_anywhere = trainer.strategy.reduce(wishes, reduce_op="max").tolist()
        return bool(due_anywhere), asked_anywhere


class BestCheckpoint(Checkpoint):
    """Keeps the checkpoint of the validation with the highest clip-level top-1 accuracy.

    Of equal ones it is the one with the lower loss, then the earlier one. Lightning's
    `ModelCheckpoint` knows no second criterion, and forgets the best when its folder was moved.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.best = (-math.inf, -math.inf)  # top-1 accuracy, negative loss

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it is the best so far; the first rank's numbers count."""
        if trainer.sanity_checking:
            return
        top1, loss = (float(trainer.callback_metrics[key]) for key in ("val/clip/top1", "val/loss"))
        reached = (top1, -loss)
        if trainer.strategy.broadcast(reached > self.best):
            self.best = reached
            trainer.save_checkpoint(self.file)

    def state_dict(self) -> dict[str, Any]:
        """What has to be surpassed."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know it again after a stop."""
        self.best = state_dict["best"]
