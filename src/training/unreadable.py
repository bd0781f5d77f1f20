"""Videos that cannot be read in training: reported, counted over all ranks, and not too many."""

import logging
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from src.data.datamodule import VideoDataModule
from src.data.faults import Faults
from src.training.loggers import log_text
from src.utils.errors import UserError, visible

log = logging.getLogger(__name__)
_DONE = {
    "train": "another takes its place in every epoch",
    "val": "validation leaves it out, the test will not",
}


class UnreadableVideos(Callback):
    """Lists the videos that could not be read in a file, and stops a run that has too many.

    Every `log_every_n_steps` steps and after each epoch the ranks put together what each has met:
    all of them tell the same, and all of them stop. In validation such videos are skipped, because
    a replaced video would change the list from epoch to epoch; in the test they are not, see
    `CollectScores`.
    """

    def __init__(self, data: VideoDataModule, file: Path) -> None:
        self.data, self.file = data, file
        self.known: dict[str, dict[str, str]] = {phase: {} for phase in _DONE}

    @property
    def replaced(self) -> tuple[Faults, ...]:
        """The training videos that could not be read so far, of all ranks and epochs."""
        what = "could not be read and were replaced"
        return self.data.errors.faults("train", what, self.known["train"], present=True)

    @property
    def faults(self) -> list[Faults]:
        """What was wrong with training and validation videos, for the record."""
        parts = [part for part in ("train", "val") if part != self.data.test_part]  # as the test's
        missing = [faults for part in parts for faults in self.data.errors.left_out(part)]
        return [*missing, *self.replaced]

    def state_dict(self) -> dict[str, Any]:
        """What is known, so that a run that continues still knows it."""
        # Within an epoch there may be some that have not been reported yet.
        return {
            phase: self.data.errors.unreadable[phase] | known for phase, known in self.known.items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what an earlier start has found out."""
        self.known = {phase: dict(known) for phase, known in state_dict.items()}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """Agree where metrics are logged, too."""
        _, _, batch_idx = step
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._agree(trainer)
            pl_module.log("data/replaced_videos", float(len(self.known["train"])))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree, and log how many there are; validation of this epoch is over by now."""
        self._agree(trainer)
        for phase, known in self.known.items():
            pl_module.log(f"{phase}/skipped_videos", float(len(known)), sync_dist=True)

    def _agree(self, trainer: Trainer) -> None:
        met, news = self.data.errors.of_all_ranks(*self.known), False
        for phase, known in self.known.items():
            everywhere = met[phase]
            for name in sorted(everywhere.keys() - known.keys()):
                known[name], news = everywhere[name], True
                if trainer.is_global_zero:
                    why = visible(everywhere[name])
                    log.warning("video %s: %s; %s", visible(name), why, _DONE[phase])
        if news and trainer.is_global_zero:
            lines = [
                visible(f"{phase} {name}: {reason}")
                for phase, known in self.known.items()
                for name, reason in known.items()
            ]
            self.file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            log_text(trainer, "skipped_videos", "\n".join(lines))
        allowed = self.data.reading.max_unreadable_fraction
        # As a quotient, for 0.57 * 100 is less than 57.
        if len(self.known["train"]) / len(self.data.videos.train) > allowed:
            raise UserError(
                f"{self.replaced[0]}; all are in {self.file}. data.videos.max_unreadable_fraction="
                f"{allowed:g} is allowed: python -m src.verify_data shows what is wrong with them"
            )
