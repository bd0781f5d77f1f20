"""What can be wrong with an experiment, found before any data is read or a device is touched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from src.data.datamodule import VideoDataModule
from src.errors import UserError
from src.models.build import Plan, build_datamodule, build_module, build_net
from src.models.weights import imagenet_entry, read_checkpoint
from src.training.trainer import accumulation
from src.training.warm_start import checkpoint_of_stage, is_imagenet, sources


def check_plans(plans: Mapping[str, Plan], config: Mapping[str, Any], run_dir: Path) -> None:
    """Check that networks take the data's clips, and that the sources of weights exist."""
    if not plans:
        raise UserError("only=... and skip=... leave no stage to run")
    stages = list(config["stages"])
    for name, plan in plans.items():
        data = build_datamodule(plan)
        with torch.device("meta"):  # shapes only: no memory, no time
            try:
                module = build_module(plan, build_net(plan)).eval()
                module.logits(_empty_batch(data))
            except (ValueError, RuntimeError) as error:
                raise UserError(f"stage {name}: {error}") from error
        for part, source in sources(plan).items():
            if source is None or source in plans:
                continue
            if source in stages:
                checkpoint_of_stage(run_dir, source, name)
            elif is_imagenet(source, stages):
                imagenet_entry(module.net.get_submodule(part), source)
            else:
                read_checkpoint(source)


def check_trainer(cfg: DictConfig, plans: Mapping[str, Plan]) -> None:
    """Check the seed, the trainer and how batches divide among devices."""
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise UserError(f"seed={cfg.seed}: needs a whole number from 0")
    trainer = instantiate(cfg.trainer, logger=False, enable_checkpointing=False, _convert_="all")
    for plan in plans.values():
        accumulation(plan, trainer.world_size)


def _empty_batch(data: VideoDataModule) -> dict[str, torch.Tensor]:
    """A batch of one training clip without content, on the default device."""
    size = (data.frames, data.crop_size, data.crop_size)
    channels = {"rgb": 3, "flow": 2 * data.stack}
    return {
        modality: torch.empty(1, channels[modality], *size, dtype=torch.uint8)
        for modality in data.modalities
    }
