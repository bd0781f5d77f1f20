"""Loggers of one stage, opened before and closed after it, so that no run leaks into the next."""

import contextlib
import logging
import netrc
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import wandb
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, WandbLogger

from src import __version__
from src.ranks import own_rank
from src.whole_files import whole

log = logging.getLogger(__name__)


def build_loggers(
    cfg: DictConfig, config: Mapping[str, Any], stage: str, folder: Path
) -> list[Logger]:
    """One logger per entry of the config's logger group, all writing to the stage's folder."""
    loggers = []
    for entry in cfg.values():
        logger = instantiate(entry, save_dir=str(folder), _convert_="all")
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams({**config, "code": code_version()})
        loggers.append(logger)
    return loggers


def code_version() -> dict[str, str | None]:
    """The project's version, and git's commit where it is run from a clone ("-dirty": changed)."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        commit = said.stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or no clone
        commit = None
    return {"version": __version__, "commit": commit}


class StageRun(WandbLogger):
    """A W&B run for one stage, grouped by experiment; offline, without a prompt, if no key is set.

    A stage that goes on after a stop goes on with its run.

    Args:
        save_dir: the stage's folder; its name is the job type.
        project: W&B project.
        experiment: the run's group.
        tags: for filtering.
        checkpoints: whether the final checkpoint becomes an artifact.
    """

    def __init__(
        self, save_dir: str, project: str, experiment: str, tags: list[str], checkpoints: bool
    ) -> None:
        stage = Path(save_dir).name
        offline = not _has_wandb_key()
        if offline:
            log.info(
                "W&B: no API key, so this run is written to %s/wandb; wandb sync uploads", save_dir
            )
        super().__init__(
            save_dir=save_dir,
            project=project,
            name=f"{experiment}/{stage}",
            group=experiment,
            job_type=stage,
            tags=tags,
            offline=offline,
            id=_run_id(Path(save_dir) / "wandb_id"),
            resume=None if offline else "allow",
            settings=wandb.Settings(quiet=True),
        )
        self.keeps_checkpoints = checkpoints


def _run_id(file: Path) -> str:
    """The id that the stage's earlier runs had, else a new one; in a W&B sweep the agent's."""
    given = os.environ.get("WANDB_RUN_ID")
    if given and os.environ.get("WANDB_SWEEP_ID"):
        return given
    if file.is_file():
        return file.read_text().strip()
    run_id = secrets.token_hex(4)
    if own_rank() == 0:  # whose run it is
        with whole(file) as draft:
            draft.write_text(run_id)
    return run_id


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1]
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


@contextlib.contextmanager
def closing(loggers: list[Logger]) -> Iterator[None]:
    """End every run at the end, after an exception too, and tell how it ended."""
    status = "failed"
    try:
        yield
        status = "success"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        for logger in loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=0 if status == "success" else 1)
