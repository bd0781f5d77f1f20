"""Loggers of one stage, opened before and closed after it, so that no run leaks into the next."""

import logging
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, WandbLogger

log = logging.getLogger(__name__)


def build_loggers(
    cfg: DictConfig, config: Mapping[str, Any], stage: str, folder: Path
) -> list[Logger]:
    """One logger per entry of the config's logger group, all writing to the stage's folder."""
    loggers = []
    for entry in cfg.values():
        logger = instantiate(entry, save_dir=str(folder), _convert_="all")
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams(dict(config))
        loggers.append(logger)
    return loggers


def wandb_logger(save_dir: str, project: str, experiment: str, tags: list[str]) -> WandbLogger:
    """A W&B run for one stage, grouped by experiment; offline, without a prompt, if no key is set.

    Args:
        save_dir: the stage's folder; its name is the job type.
        project: W&B project.
        experiment: the run's group.
        tags: for filtering.
    """
    stage = Path(save_dir).name
    offline = not _has_wandb_key()
    if offline:
        log.info(
            "W&B: no API key, so this run is written to %s/wandb; wandb sync uploads", save_dir
        )
    return WandbLogger(
        save_dir=save_dir,
        project=project,
        name=f"{experiment}/{stage}",
        group=experiment,
        job_type=stage,
        tags=tags,
        offline=offline,
        settings=wandb.Settings(quiet=True),
    )


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


def close_loggers(loggers: list[Logger]) -> None:
    """End every run, after an exception too."""
    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
