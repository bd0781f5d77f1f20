"""A search by Optuna: its journal of trials, and how one is pruned or fails alone.

The journal is a file that many processes may write to, network disks included.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from src.utils.errors import UserError

if TYPE_CHECKING:
    import optuna

# User attributes of a study and of its trials.
ARGUMENTS = "arguments"  # of the command line, the same for all trials
PRUNER = "pruner"
FOLDER = "folder"  # the run directory of a trial
PRUNED = "pruned"  # the pass after which a trial was ended
JOURNALS = "*.study"  # names of the files


def open_study(journal: Path, create: bool = False, **options: Any) -> "optuna.Study":
    """The only study in a journal file.

    Args:
        journal: the file, which is made if `create` says so.
        create: whether the study is made where there is none.
        options: a sampler, a pruner, the direction.

    Raises:
        UserError: Optuna is not installed, or the file holds no study.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("a search needs Optuna: pip install -e '.[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(journal))
    )
    name = journal.stem
    if create:
        return optuna.create_study(storage=storage, study_name=name, load_if_exists=True, **options)
    options.pop("direction", None)
    try:
        return optuna.load_study(storage=storage, study_name=name, **options)
    except (KeyError, ValueError) as error:  # of lines that are no journal, too
        raise UserError(f"{journal} holds no study of that name: {error}") from error


def choose(module: Any, name: str, options: Mapping[str, Any], key: str) -> Any:
    """Build a sampler or a pruner of Optuna; `key` is that of its name.

    Raises:
        UserError: there is no such class, or it does not take these arguments.
    """
    known = [one for one in module.__all__ if one[0].isupper() and not one.startswith("Base")]
    if name not in known:
        raise UserError(f"{key}={name}: choose from {', '.join(known)}")
    try:
        return getattr(module, name)(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}_options: {error}") from error


def values_of(params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides; numbers are rounded, for the sake of directories' names."""
    return [
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    ]


log = logging.getLogger(__name__)
WATCHED = "val/clip/top1"


class Prune(pl.Callback):
    """Reports the clip-level accuracy of each pass, and ends the training if Optuna says so.

    The first process asks; all of them do as it is told.

    Args:
        journal: file of the search.
        number: of this trial.
        folder: the run directory, for the report.

    Attributes:
        pruned: whether the training was ended.
    """

    def __init__(self, journal: str, number: int, folder: str) -> None:
        self.journal, self.number, self.folder, self.pruned = journal, number, folder, False
        self._trial: Any = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report; validation of this pass is over by now."""
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
                log.info("trial %d is pruned after pass %d", self.number, done)

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


def pruning(config: Mapping[str, Any], last_stage: bool) -> list[Prune]:
    """The callback for a job of a search; only its last stage, whose result is the trial's."""
    trial = config["trial"]
    return [Prune(**trial, folder=config["paths"]["run_dir"])] if trial and last_stage else []


@contextlib.contextmanager
def fails_alone() -> Iterator[None]:
    """Make the end of a job's processes by a mistake an exception, after which a sweep goes on.

    Raises:
        UserError: instead of `SystemExit`, but for an end by a signal.
    """
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.code, int) or stop.code >= 128:
            raise
        raise UserError("its processes ended with the error above") from stop
