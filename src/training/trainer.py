"""Lightning's Trainer for one stage."""

import sys
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from src.errors import UserError
from src.models.build import Plan
from src.training.run_dir import StageDir


def build_trainer(
    cfg: DictConfig, plan: Plan, callbacks: list[pl.Callback], stage_dir: StageDir, loggers: Any
) -> pl.Trainer:
    """Lightning's Trainer for one stage: its length, its batch, its checkpoint."""
    epochs = instantiate(plan["module"]["schedule"], _convert_="all").epochs
    cap = plan["limits"]["max_epochs"]
    checkpoint = ModelCheckpoint(
        dirpath=stage_dir.path,
        filename=stage_dir.checkpoint.stem,
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    chosen = [instantiate(callback) for callback in (cfg.callbacks or {}).values()]
    trainer = instantiate(
        cfg.trainer,
        max_epochs=epochs if cap is None else min(epochs, cap),
        callbacks=[*callbacks, *chosen, checkpoint],
        logger=loggers,
        default_root_dir=str(stage_dir.path),
        enable_progress_bar=sys.stderr.isatty(),
        use_distributed_sampler=False,  # ours deals each test video to one rank only
        _convert_="all",
    )
    trainer.accumulate_grad_batches = accumulation(plan, trainer.world_size)
    return trainer


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
