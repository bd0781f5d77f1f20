"""The loggers of a run: opened before each stage, closed after it, and unable to fail it."""

import contextlib
import functools
import logging
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from src import __version__
from src.experiment.config import StageConfig
from src.utils.errors import UserError
from src.utils.mistakes import find_mistake
from src.utils.ranks import of_all_ranks

log = logging.getLogger(__name__)


class Guarded(Logger):
    """What comes before a logger's own class: a failure is reported once, the rest is skipped."""

    entry: str  # its key in the config's logger group
    failed: set[str]  # the entries that have failed; all loggers of a run share it

    def attempt(self, act: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call what may fail because of this logger, unless something has failed before."""
        if self.entry not in self.failed:
            try:
                act(*args, **kwargs)
            except Exception as error:
                drop(self.entry, self.failed, f"{type(error).__name__}: {error}")

    def _attempt_own(self, method: str, *args: Any, **kwargs: Any) -> None:
        self.attempt(getattr(super(), method), *args, **kwargs)


def drop(entry: str, failed: set[str], error: object) -> None:
    """Add an entry to those that have failed, and warn, once."""
    if entry not in failed:
        failed.add(entry)
        line = " ".join(str(error).split())
        log.warning("logger %s has failed, the run continues without it: %s", entry, line)


# All that Lightning, callbacks and modules ask of a logger.
_METHODS = "log_metrics log_hyperparams log_graph save finalize after_save_checkpoint"
for _method in _METHODS.split():
    setattr(Guarded, _method, functools.partialmethod(Guarded._attempt_own, _method))


def guarded(logger: Logger, entry: str, failed: set[str]) -> Guarded:
    """The same logger, of the same class for all that look; `failed` gets its entry if it fails."""
    own: Any = type(logger)
    logger.__class__ = type(own.__name__, (Guarded, own), {})
    assert isinstance(logger, Guarded)
    logger.entry, logger.failed = entry, failed
    return logger


def log_text(trainer: Trainer, key: str, text: str) -> None:
    """Tell every logger a text.

    TensorBoard gets a text, because it shows hyperparameters of finished runs only; others a
    hyperparameter (hparams.yaml beside metrics.csv, W&B's config).
    """
    for logger in trainer.loggers:
        if isinstance(logger, Guarded):
            logger.attempt(_log_text, logger, key, text, trainer.global_step)


def _log_text(logger: Logger, key: str, text: str, step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(key, text, step)
    else:
        logger.log_hyperparams({key: text})


class Loggers:
    """A run's loggers, one per entry of the config's logger group, anew for each stage.

    One that cannot be opened for the first stage is a mistake. One that fails later, in whatever it
    does, is reported once and dropped for the rest of the run. Entries that are null are skipped.
    """

    def __init__(self, cfg: DictConfig | None) -> None:
        entries = (cfg or {}).items()
        self._entries = {str(name): entry for name, entry in entries if entry is not None}
        self._opened: set[str] = set()
        self._failed: set[str] = set()

    @contextlib.contextmanager
    def of_stage(self, folder: Path, config: StageConfig) -> Iterator[Sequence[Guarded]]:
        """The loggers of a stage; each learns at the end, after an exception too, how it ended.

        Raises:
            UserError: one of them cannot be used here, on any rank.
        """
        loggers: list[Guarded] = []
        status = "failed"
        try:
            self._open(folder, config, loggers)
            yield loggers
            status = "success"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            for logger in loggers:
                _close(logger, status)

    def _open(self, folder: Path, config: StageConfig, loggers: list[Guarded]) -> None:
        problems: dict[str, str] = {}
        for name, entry in self._entries.items():
            if name in self._failed:
                continue
            logger = None
            try:
                logger = instantiate(entry, save_dir=str(folder), _convert_="all")
                getattr(logger, "experiment", None)  # made when it is first asked for
                if isinstance(logger, WandbLogger):
                    logger.log_hyperparams({**config, "code": code_version()})
            except Exception as error:
                problems[name] = find_mistake(error) or f"{type(error).__name__}: {error}"
                if name in self._opened:
                    drop(name, self._failed, problems[name])
            if logger is not None:
                loggers.append(guarded(logger, name, self._failed))
        for rank in of_all_ranks(problems):
            for name, problem in rank.items():
                if name not in self._opened:
                    raise UserError(f"logger.{name}: {problem}; logger.{name}=null leaves it out")
                self._failed.add(name)
        self._opened.update(self._entries)


def _close(logger: Guarded, status: str) -> None:
    logger.finalize(status)
    if not isinstance(logger, WandbLogger):
        return
    import wandb  # here: others do not wait for it

    if wandb.run is not None:
        try:  # also if it has failed: the next would write into its run
            wandb.run.finish(exit_code=0 if status == "success" else 1)
        except Exception as error:
            drop(logger.entry, logger.failed, f"{type(error).__name__}: {error}")
            with contextlib.suppress(Exception, SystemExit):
                wandb.run._restore()  # what is printed is no longer copied to it
            wandb.run = None  # or the next run, and the end of this process, fail as well
            with contextlib.suppress(Exception, SystemExit):
                wandb.teardown()


def code_version() -> dict[str, str | None]:
    """The project's version, and git's commit where it is run from a clone ("-dirty": changed)."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # no git, or no clone
        return {"version": __version__, "commit": None}
    return {"version": __version__, "commit": commit.strip()}
