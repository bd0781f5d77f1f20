"""What can be wrong with an experiment, found before any data is read or a device is touched."""

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.accelerators import CPUAccelerator

from src.data.datamodule import VideoDataModule
from src.errors import UserError
from src.models.build import Plan, build_datamodule, build_module, build_net
from src.models.modules import VideoClassifier
from src.models.trust import check_trusted
from src.models.weights import imagenet_entry, read_checkpoint
from src.training.run_dir import stage_dirs
from src.training.speed import check_speed
from src.training.trainer import accumulation, build_callbacks, instantiate_trainer
from src.training.warm_start import checkpoint_of_stage, is_imagenet, sources
from src.values import NAMES, NULL, PATH, TEXT, Need, check_values, number, one_of, whole

log = logging.getLogger(__name__)
ADAMW_HIGH = 2e-3  # AdamW's steps do not shrink with the gradient: SGD's rates are far too high
_NEEDS: dict[str, Need] = {
    "seed": whole(0, 2**32 - 1),  # NumPy takes no other
    "samples": whole(0),
    "checkpoint_minutes": number("minutes from 0", lambda minutes: minutes >= 0) | NULL,
    "resume": one_of("same", "force"),
    "only": NAMES | NULL,
    "skip": NAMES | NULL,
    "remark": TEXT | NULL,
}


def check_config(config: Mapping[str, Any]) -> None:
    """Check the values that all stages share, and where the run is written to."""
    check_values(config, _NEEDS)
    check_values(config["paths"], dict.fromkeys(config["paths"], PATH), "paths.")


def check_plans(plans: Mapping[str, Plan], config: Mapping[str, Any]) -> None:
    """Check that networks take the data's clips, and that the sources of weights exist."""
    if not plans:
        raise UserError("only=... and skip=... leave no stage to run")
    stages = stage_dirs(config)
    for name, plan in plans.items():
        try:
            check_trusted(plan, f"stage {name}")
        except UserError as error:
            log.warning("%s: src.evaluate and src.predict will refuse its checkpoints", error)
        module, _ = module_without_data(plan)
        rate = module.schedule.lr
        if plan["optimizer"]["_target_"].endswith(".AdamW") and rate > ADAMW_HIGH:
            log.warning(
                "stage %s: AdamW with a learning rate of %g, which suits SGD: schedule=cosine "
                "schedule.lr=3e-4 is usual",
                name,
                rate,
            )
        batch_size = plan["data"]["batch_size"]
        if module.mixing is not None and batch_size < 2:
            raise UserError(
                f"stage {name}: mixing needs 2 clips or more in a step, not "
                f"data.batch_size={batch_size}"
            )
        for part, source in sources(plan).items():
            if source is None and module.batch_norm != "train":
                raise UserError(
                    f"stage {name}: batch_norm={module.batch_norm} keeps the statistics that a "
                    f"stage starts from, and start_from=null gives none: let it train here with "
                    f"+stages.{name}.batch_norm=train"
                )
            if source is None or source in plans:
                continue
            if source in stages:
                checkpoint_of_stage(stages[source], name)
            elif is_imagenet(source, stages):
                imagenet_entry(module.net.get_submodule(part), source)
            else:
                read_checkpoint(source)


def check_trainer(cfg: DictConfig, plans: Mapping[str, Plan]) -> pl.Trainer:
    """Check the trainer and how batches divide among its devices; return the trainer."""
    trainer = instantiate_trainer(cfg.trainer, logger=False, enable_checkpointing=False)
    on_cpu = isinstance(trainer.accelerator, CPUAccelerator)
    if cfg.trainer.sync_batchnorm and trainer.world_size > 1 and on_cpu:
        raise UserError("trainer.sync_batchnorm=true needs GPUs: torch cannot do it on CPUs")
    build_callbacks(cfg)
    check_speed(cfg.compile, cfg.tf32, trainer.strategy.root_device)
    for plan in plans.values():
        accumulation(plan, trainer.world_size)
        clipped = trainer.gradient_clip_val and trainer.precision == "16-mixed"
        if clipped and plan["optimizer"].get("fused"):
            raise UserError(
                f"stage {plan['stage']}: optimizer.fused=true unscales the gradients of 16-mixed "
                "itself, too late for trainer.gradient_clip_val: leave out one of them"
            )
    return trainer


def module_without_data(plan: Plan) -> tuple[VideoClassifier, dict[str, torch.Tensor]]:
    """A stage's module, in evaluation mode, and a training clip without content that it takes.

    Both are on the meta device: they have shapes, but need no memory and no time.

    Raises:
        UserError: they do not fit, or there is no optimiser for the module.
    """
    data = build_datamodule(plan)
    with torch.device("meta"):
        try:
            module, batch = build_module(plan, build_net(plan)).eval(), _empty_batch(data)
            module.logits(batch)
            module.build_optimizer()
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"stage {plan['stage']}: {error}") from error
    return module, batch


def _empty_batch(data: VideoDataModule) -> dict[str, torch.Tensor]:
    """A batch of one training clip without content, on the default device."""
    size = (data.frames, data.crop_size, data.crop_size)
    channels = {"rgb": 3, "flow": 2 * data.stack}
    return {
        modality: torch.empty(1, channels[modality], *size, dtype=torch.uint8)
        for modality in data.modalities
    }
