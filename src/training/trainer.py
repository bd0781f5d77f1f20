"""Lightning's Trainer for one stage."""

import math
import warnings
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import LearningRateFinder, ProgressBar
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.strategies import DDPStrategy

from src.experiment.config import StageConfig
from src.experiment.run_dir import StageDir
from src.training.callbacks import OneSetOfStatistics, OwnGradients
from src.training.checkpointing import AtomicCheckpointIO, BestCheckpoint, StageCheckpoint
from src.training.group import Group
from src.training.speed import CUDA_GRAPHS
from src.training.stop import EndAtSignals
from src.utils.errors import UserError
from src.utils.mistakes import find_mistake, quieten
from src.utils.values import NULL, SWITCH, Need, check_values, integer, number

_BATCHES = integer(1) | number("a share above 0", lambda share: 0 < share <= 1) | NULL
# What Lightning takes without a look, or refuses without the name of the key.
_NEEDS: dict[str, Need] = {
    "max_epochs": integer(1) | NULL,
    "limit_train_batches": _BATCHES,
    "limit_val_batches": integer(0) | number("a share", lambda share: 0 <= share <= 1) | NULL,
    "limit_test_batches": _BATCHES,  # a stage without a test result is not finished
    "devices": Need(
        "a number from 1, a list of GPUs, or auto",
        lambda value: (
            (integer(-1).fits(value) and value != 0) or value == "auto" or isinstance(value, list)
        ),
    ),
    "num_nodes": integer(1),
    "log_every_n_steps": integer(1),
    "check_val_every_n_epoch": integer(1) | NULL,
    "benchmark": SWITCH | NULL,
    "sync_batchnorm": SWITCH,
    "enable_progress_bar": SWITCH,
    "gradient_clip_val": number("a number above 0", lambda value: value > 0) | NULL,
}

# Keys of Lightning's Trainer that the project sets itself, and what to use in their place.
OURS = {
    "accumulate_grad_batches": "it follows from stages.<stage>.effective_batch_size, "
    "stages.<stage>.data.batch_size and the number of devices",
    "logger": "src.train has logger=...",
    "callbacks": "add one with +callbacks.<name>._target_=<class>",
    "plugins": "the project writes its own checkpoints; choose with trainer.precision=...",
    "use_distributed_sampler": "the data deal each video to one device",
    "default_root_dir": "choose with paths.run_dir=...",
    "num_sanity_val_steps": "debug=steps tries every step of every stage",
    "enable_checkpointing": "every stage has checkpoints; checkpoint_minutes=... says how often",
    "enable_model_summary": "debug=summary shows the networks",
    "reload_dataloaders_every_n_epochs": "clips are drawn anew in every epoch",
    "fast_dev_run": "debug=steps runs a few steps of every stage, in a directory of its own",
    "overfit_batches": "debug=overfit trains on one batch, in a directory of its own",
    "max_time": "a stage ends by its max_epochs; one that is stopped resumes by the same command",
    **dict.fromkeys(("min_epochs", "min_steps"), "a stage has stages.<stage>.max_epochs"),
    "barebones": "python -m src.benchmark target=step measures a step",
}


def instantiate_trainer(cfg: DictConfig, **options: Any) -> pl.Trainer:
    """Lightning's Trainer as a config and further options describe it.

    It shows no progress but by a bar among the callbacks, see `src.training.progress`.

    Raises:
        UserError: the config has a key that the project sets itself or a value of the wrong kind,
            the trainer would quietly use another precision than it is asked for, or its strategy is
            none that ranks with different numbers of test videos can follow.
    """
    quieten()  # again: Lightning has set its own level when it was imported
    for key, instead in OURS.items():
        if key in cfg:
            raise UserError(f"trainer.{key}={cfg[key]}: not for you to set: {instead}")
    callbacks = options.get("callbacks", ())
    defaults = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,  # the data deal each video to one rank only
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in callbacks),
    }
    check_values(OmegaConf.to_container(cfg, resolve=True), _NEEDS, "trainer.")  # type: ignore[arg-type]
    try:
        trainer: pl.Trainer = instantiate(cfg, **defaults | options, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"trainer: {find_mistake(error)}") from error
    if isinstance(trainer.accelerator, CPUAccelerator) and str(cfg.precision) in ("16", "16-mixed"):
        raise UserError(
            f"trainer.precision={cfg.precision} needs a GPU: choose bf16-mixed or 32-true on a CPU"
        )
    chosen = cfg.strategy  # devices share the work as conf/trainer/ddp.yaml says, or not at all
    if trainer.world_size > 1 and not (
        isinstance(chosen, DictConfig)
        and isinstance(trainer.strategy, DDPStrategy)
        and chosen.get("broadcast_buffers") is False
        and chosen.get("start_method", "popen") == "popen"
    ):
        name = chosen if isinstance(chosen, str) else type(trainer.strategy).__name__
        raise UserError(
            f"trainer.strategy={name} on {trainer.world_size} devices: give trainer=ddp "
            f"trainer.devices={trainer.num_devices}, whose options go with it, as in "
            "+trainer.strategy.find_unused_parameters=true"
        )
    return trainer


def build_trainer(
    cfg: DictConfig,
    config: StageConfig,
    callbacks: list[pl.Callback],
    stage_dir: StageDir,
    loggers: Any,
    resumes: bool = False,
) -> pl.Trainer:
    """Lightning's Trainer for one stage: its length, its batch, its checkpoint."""
    chosen = build_callbacks(cfg)
    if resumes:  # the rate is in the checkpoint, and Lightning would begin the training anew
        others = [callback for callback in chosen if not isinstance(callback, LearningRateFinder)]
        if len(others) < len(chosen) and cfg.resume == "force":
            raise UserError(
                "LearningRateFinder looks for a rate at the start of a training; resume=force "
                f"would not follow it: give the rate as stages.{config['stage']}.optimizer.lr"
            )
        chosen = others
    plugins: list[Any] = [AtomicCheckpointIO()]
    if (group := Group.from_environment()) and group.starter == "SLURM":
        # Lightning would queue the job again at SIGUSR1, and save what it finds in the middle of a
        # step. SLURM itself requeues what it preempts, submitit what comes to the end of its time.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    stop = EndAtSignals()
    checkpoints: list[pl.Callback] = [
        StageCheckpoint(stage_dir.checkpoint, cfg.checkpoint_minutes, stop)
    ]
    if config["checkpoint"] == "best":
        checkpoints.append(BestCheckpoint(stage_dir.best))
    trainer = instantiate_trainer(
        cfg.trainer,
        max_epochs=epochs(config),
        # Averaged weights have to be in place before statistics are shared.
        callbacks=[*callbacks, *chosen, OneSetOfStatistics(), stop, *checkpoints],
        plugins=plugins,
        logger=loggers,
        default_root_dir=str(stage_dir.path),
        enable_checkpointing=True,
    )
    trainer.loggers = loggers or [DummyLogger()]  # LearningRateMonitor, for one, insists on one
    if config["batch_norm"] != "train":
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training")  # as meant
    trainer.accumulate_grad_batches = accumulation(config, trainer.world_size)
    return trainer


def epochs(config: StageConfig) -> int:
    """Epochs of a stage: its own, or fewer if the trainer is given fewer."""
    own, cap = config["max_epochs"], config["trainer"]["max_epochs"]
    return own if cap is None else min(own, cap)


def build_callbacks(cfg: DictConfig) -> list[pl.Callback]:
    """The callbacks that the config chooses, and those that its speed needs."""
    entries = (cfg.callbacks or {}).values()
    chosen = [instantiate(entry) for entry in entries if entry is not None]
    return [*chosen, OwnGradients()] if cfg.compile in CUDA_GRAPHS else chosen


def accumulation(config: StageConfig, devices: int) -> int:
    """Steps whose gradients are added up for one update."""
    at_once = config["data"]["batch_size"] * devices
    steps, rest = divmod(config["effective_batch_size"], at_once)
    if rest or not steps:
        raise UserError(
            f"stages.{config['stage']}.effective_batch_size={config['effective_batch_size']} is "
            f"not a multiple of {at_once}: data.batch_size={config['data']['batch_size']} clips on "
            f"each of {devices} devices"
        )
    return steps


def updates_per_epoch(config: StageConfig, videos: int, devices: int) -> int:
    """Updates of the weights in an epoch over some number of training videos."""
    batches = math.ceil(math.ceil(videos / devices) / config["data"]["batch_size"])
    limit = config["trainer"]["limit_train_batches"]
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return max(1, math.ceil(batches / accumulation(config, devices)))
