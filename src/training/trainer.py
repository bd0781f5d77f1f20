"""Lightning's Trainer for one stage."""

import warnings
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.strategies import DDPStrategy

from src.cli import find_mistake, quieten
from src.errors import UserError
from src.models.build import Plan, build_schedule
from src.training.callbacks import OneSetOfStatistics, OwnGradients
from src.training.checkpoint_io import WholeFiles
from src.training.group import Group
from src.training.run_dir import StageDir
from src.training.speed import CUDA_GRAPHS
from src.training.stage_checkpoint import StageCheckpoint
from src.training.stop import EndAtSignals
from src.values import NULL, SWITCH, Need, check_values, number, whole

_BATCHES = whole(1) | number("a share above 0", lambda share: 0 < share <= 1) | NULL
# What Lightning takes without a look, or refuses without the name of the key.
_NEEDS: dict[str, Need] = {
    "max_epochs": whole(1) | NULL,
    "limit_train_batches": _BATCHES,
    "limit_val_batches": whole(0) | number("a share", lambda share: 0 <= share <= 1) | NULL,
    "limit_test_batches": _BATCHES,  # a stage without a test result is not finished
    "devices": Need(
        "a number from 1, a list of GPUs, or auto",
        lambda value: (
            (whole(-1).fits(value) and value != 0) or value == "auto" or isinstance(value, list)
        ),
    ),
    "num_nodes": whole(1),
    "log_every_n_steps": whole(1),
    "check_val_every_n_epoch": whole(1) | NULL,
    "num_sanity_val_steps": whole(-1),
    "benchmark": SWITCH | NULL,
    "sync_batchnorm": SWITCH,
    "enable_model_summary": SWITCH,
    "enable_progress_bar": SWITCH,
    "gradient_clip_val": number("a number above 0", lambda value: value > 0) | NULL,
}


def instantiate_trainer(cfg: DictConfig, **options: Any) -> pl.Trainer:
    """Lightning's Trainer as a config and further options describe it.

    It shows no progress but by a bar among the callbacks, see `src.training.progress`.

    Raises:
        UserError: a value is of the wrong kind; or it would quietly use another precision than it
            is asked for, or its strategy is none that ranks with different numbers of test videos
            can follow.
    """
    quieten()  # again: Lightning has set its own level when it was imported
    callbacks = options.get("callbacks") or ()
    options["enable_progress_bar"] = any(isinstance(one, ProgressBar) for one in callbacks)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    check_values(plain, _NEEDS, "trainer.")
    try:
        trainer: pl.Trainer = instantiate(cfg, **options, _convert_="all")
    except InstantiationException as error:
        raise UserError(f"trainer: {find_mistake(error)}") from error
    if isinstance(trainer.accelerator, CPUAccelerator) and str(cfg.precision) in ("16", "16-mixed"):
        raise UserError(
            f"trainer.precision={cfg.precision} needs a GPU: choose bf16-mixed or 32-true on a CPU"
        )
    _check_strategy(cfg, trainer)
    return trainer


def _check_strategy(cfg: DictConfig, trainer: pl.Trainer) -> None:
    """Let devices share the work as conf/trainer/ddp.yaml says, or not at all."""
    chosen = cfg.strategy
    if trainer.world_size == 1:
        return
    if not (
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


def build_trainer(
    cfg: DictConfig, plan: Plan, callbacks: list[pl.Callback], stage_dir: StageDir, loggers: Any
) -> pl.Trainer:
    """Lightning's Trainer for one stage: its length, its batch, its checkpoint."""
    stop = EndAtSignals()
    checkpoint = StageCheckpoint(stage_dir.checkpoint, cfg.checkpoint_minutes, stop)
    trainer = instantiate_trainer(
        cfg.trainer,
        max_epochs=passes(plan),
        # Averaged weights have to be in place before statistics are shared.
        callbacks=[*callbacks, *build_callbacks(cfg), OneSetOfStatistics(), stop, checkpoint],
        plugins=build_plugins(),
        logger=loggers,
        default_root_dir=str(stage_dir.path),
        use_distributed_sampler=False,  # ours deals each test video to one rank only
    )
    if plan["module"]["batch_norm"] != "train":
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training")  # as meant
    trainer.accumulate_grad_batches = accumulation(plan, trainer.world_size)
    return trainer


def passes(plan: Plan) -> int:
    """Passes over the train list: the schedule's, or fewer if the trainer is given fewer."""
    epochs, cap = build_schedule(plan).epochs, plan["limits"]["max_epochs"]
    return epochs if cap is None else min(epochs, cap)


def build_plugins() -> list[Any]:
    """How checkpoints are written, and what Lightning is to do in a job of SLURM."""
    plugins: list[Any] = [WholeFiles()]
    group = Group.found()
    if group is not None and group.starter == "SLURM":
        # Lightning would queue the job again at SIGUSR1, and save what it finds in the middle of a
        # step. SLURM itself requeues what it preempts, submitit what comes to the end of its time.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def build_callbacks(cfg: DictConfig) -> list[pl.Callback]:
    """The callbacks that the config chooses, and those that its speed needs."""
    chosen = [instantiate(callback) for callback in (cfg.callbacks or {}).values()]
    return [*chosen, OwnGradients()] if cfg.compile in CUDA_GRAPHS else chosen


def accumulation(plan: Plan, devices: int) -> int:
    """Steps whose gradients are added up for one update."""
    per_step = plan["data"]["batch_size"] * devices
    steps, rest = divmod(plan["batch_size"], per_step)
    if rest or not steps:
        raise UserError(
            f"stages.{plan['stage']}.batch_size={plan['batch_size']} is not a multiple of "
            f"{per_step}: data.batch_size={plan['data']['batch_size']} clips on each of "
            f"{devices} devices"
        )
    return steps
