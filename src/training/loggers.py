"""The loggers of a run: opened before each stage, closed after it, and unable to fail it."""

import contextlib
import functools
import logging
import netrc
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import wandb
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from wandb.env import DATA_DIR, get_data_dir

from src import __version__
from src.experiment.config import StageConfig
from src.utils.errors import UserError, short_name
from src.utils.files import atomic_write
from src.utils.mistakes import find_mistake
from src.utils.ranks import of_all_ranks, own_rank

log = logging.getLogger(__name__)
LONGEST = 128  # characters of a name on W&B


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
    if isinstance(logger, WandbLogger) and wandb.run is not None:
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


class StageRun(WandbLogger):
    """A W&B run for one stage; offline, without a prompt, if no key is set.

    A stage that continues after a stop continues with its run.

    Args:
        save_dir: the stage's folder; its name is the job type.
        name, group: of the run, before its stage, and of the runs of all stages.
        checkpoints: whether the final checkpoint becomes an artifact.
        project, tags, entity: W&B's.

    Raises:
        UserError: W&B takes no such project, or cannot write its files.
    """

    def __init__(
        self,
        save_dir: str,
        project: str,
        group: str,
        name: str,
        tags: Sequence[str] | None,
        checkpoints: bool,
        entity: str | None = None,
    ) -> None:
        if len(project) > LONGEST or re.search(r"[/\\#?%:]", project):
            raise UserError(
                f"project={project}: a project of W&B has at most {LONGEST} characters, and none "
                "of / \\ # ? % : among them"
            )
        if own_rank() == 0:
            _check_data_dir()
        logging.getLogger("wandb").propagate = False  # its failures are reported once, not by line
        stage = Path(save_dir).name
        if offline := not _has_wandb_key():
            log.info(
                "W&B: no API key, so this run is written to %s/wandb; wandb sync uploads", save_dir
            )
        super().__init__(
            save_dir=save_dir,
            project=project,
            entity=entity,
            name=short_name(f"{name}/{stage}", name, LONGEST),
            group=short_name(group, group, LONGEST),
            job_type=stage,
            tags=tags,
            offline=offline,
            id=_run_id(Path(save_dir) / "wandb_id"),
            resume=None if offline else "allow",
            settings=wandb.Settings(quiet=True),
        )
        self.keeps_checkpoints = checkpoints


def artifact_name(name: str, longest: int = LONGEST) -> str:
    """A name with the characters and of the length that W&B allows for artifacts."""
    return short_name(re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII), name, longest)


def _check_data_dir() -> None:
    """Find out now whether W&B can write what it uploads; it does so after the test."""
    folder = Path(get_data_dir(), "artifacts", "staging")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"W&B cannot write to {folder} ({error.strerror}): set {DATA_DIR} to a folder that it "
            "can write to"
        ) from error


def _run_id(file: Path) -> str:
    """The id that the stage's earlier runs had, else a new one; in a W&B sweep the agent's."""
    given = os.environ.get("WANDB_RUN_ID")
    if given and os.environ.get("WANDB_SWEEP_ID"):
        return given
    if file.is_file():
        return file.read_text().strip()
    run_id = secrets.token_hex(4)
    if own_rank() == 0:  # whose run it is
        with atomic_write(file) as draft:
            draft.write_text(run_id)
    return run_id


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1]
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
