"""What can be wrong with an experiment, found before any data is read or a device is touched."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.accelerators import CPUAccelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.data.datamodule import VideoDataModule
from src.experiment.build import build_datamodule, build_module, build_net, built_without_training
from src.experiment.config import StageConfig
from src.experiment.init_from import checkpoint_of_stage, is_imagenet, weight_sources
from src.experiment.run_dir import StageDir
from src.models.modules import VideoClassifier
from src.models.trust import check_trusted
from src.models.weights import imagenet_entry, read_checkpoint
from src.training.speed import check_speed
from src.training.trainer import accumulation, build_callbacks, instantiate_trainer
from src.utils.errors import UserError
from src.utils.values import (
    NAMES,
    NULL,
    PATH,
    SWITCH,
    TEXT,
    Need,
    check_values,
    integer,
    number,
    one_of,
)

log = logging.getLogger(__name__)
ADAMW_HIGH = 2e-3  # AdamW's steps do not shrink with the gradient: SGD's rates are far too high
_NEEDS: dict[str, Need] = {
    "seed": integer(0, 2**32 - 1),  # NumPy takes no other
    "num_sample_videos": integer(0),
    "checkpoint_minutes": number("minutes from 0", lambda minutes: minutes >= 0) | NULL,
    "resume": one_of("same", "force"),
    "run_stages": NAMES | NULL,
    "skip_stages": NAMES | NULL,
    "notes": TEXT | NULL,
}
_STAGE_NEEDS: dict[str, Need] = {
    "max_epochs": integer(1),
    "effective_batch_size": integer(1),
    "init_from": Need(
        "a stage, a checkpoint, torchvision's name of weights or null, or one for each stream",
        lambda source: all(
            isinstance(value, str | None)
            for value in (source.values() if isinstance(source, dict) else [source])
        ),
    ),
}


def check_config(cfg: DictConfig) -> None:
    """Check the values that all stages share, and where the run is written to."""
    check_values(cfg, _NEEDS)
    check_values(cfg.paths, dict.fromkeys(map(str, cfg.paths), PATH), "paths.")


def check_stages(configs: Mapping[str, StageConfig], dirs: Mapping[str, StageDir]) -> None:
    """Check that networks take the data's clips, and that the sources of weights exist.

    The configs are of the stages to run, in order, the directories of all of the experiment.
    """
    for name, config in configs.items():
        try:
            check_trusted(built_without_training(config), f"stage {name}")
        except UserError as error:
            log.warning("%s: src.evaluate and src.predict will refuse its checkpoints", error)
        check_values(config, _STAGE_NEEDS, f"stages.{name}.")
        check_values(config["optimizer"], {"fused": SWITCH | NULL}, "optimizer.")
        module, _ = module_without_data(config)
        optimization = module.optimization
        assert optimization is not None
        if config["optimizer"]["_target_"].endswith(".AdamW") and optimization.lr > ADAMW_HIGH:
            log.warning(
                f"stage {name}: AdamW with a learning rate of {optimization.lr:g}, which suits "
                f"SGD: stages.{name}.optimizer.lr=3e-4 is usual"
            )
        batch_size = config["data"]["batch_size"]
        if optimization.mixing is not None and batch_size < 2:
            raise UserError(
                f"stage {name}: mixing needs 2 clips or more in a step, not "
                f"data.batch_size={batch_size}"
            )
        _check_checkpoint(config)
        for part, source in weight_sources(config).items():
            if source is None and optimization.batch_norm != "train":
                raise UserError(
                    f"stage {name}: batch_norm={optimization.batch_norm} keeps the statistics that "
                    f"a stage starts from, and init_from=null gives none: let it train here with "
                    f"+stages.{name}.batch_norm=train"
                )
            if source is None or source in configs:
                continue
            if source in dirs:
                checkpoint_of_stage(dirs[source], name)
            elif is_imagenet(source, dirs):
                imagenet_entry(module.net.get_submodule(part), source)
            else:
                read_checkpoint(source)


def _check_checkpoint(config: StageConfig) -> None:
    """Refuse a best checkpoint that no validation, or one on the test list, would choose."""
    choice = f"stage {config['stage']}: checkpoint={config['checkpoint']}"
    if config["checkpoint"] == "last":
        return
    if config["checkpoint"] != "best":
        raise UserError(f"{choice}: choose from last, best")
    if config["data"]["val_fraction"] is None:
        raise UserError(
            f"{choice} would be chosen on the test list, as validation is on it: give "
            "data.val_fraction=0.1, or checkpoint=last"
        )
    if not config["trainer"]["limit_val_batches"]:
        raise UserError(
            f"{choice} is chosen in validation, which trainer.limit_val_batches=0 leaves out: "
            "remove one of them"
        )


def tell_cap(configs: Mapping[str, StageConfig]) -> None:
    """Say so if `trainer.max_epochs` caps nothing: it does not make a stage longer."""
    own = {name: config["max_epochs"] for name, config in configs.items()}
    cap = next(iter(configs.values()))["trainer"]["max_epochs"]
    if cap is not None and cap > max(own.values()):
        lengths = ", ".join(f"stages.{name}.max_epochs={epochs}" for name, epochs in own.items())
        log.warning(
            "trainer.max_epochs=%s is a cap, and caps nothing: %s are their own", cap, lengths
        )


def check_trainer(cfg: DictConfig, configs: Mapping[str, StageConfig]) -> pl.Trainer:
    """Check the trainer and how batches divide among its devices; return the trainer."""
    trainer = instantiate_trainer(cfg.trainer)
    on_cpu = isinstance(trainer.accelerator, CPUAccelerator)
    if cfg.trainer.sync_batchnorm and trainer.world_size > 1 and on_cpu:
        raise UserError("trainer.sync_batchnorm=true needs GPUs: torch cannot do it on CPUs")
    build_callbacks(cfg)
    check_speed(cfg.compile, cfg.tf32, trainer.strategy.root_device)
    for name, config in configs.items():
        accumulation(config, trainer.world_size)
        clipped = trainer.gradient_clip_val and trainer.precision == "16-mixed"
        if clipped and config["optimizer"].get("fused"):
            raise UserError(
                f"stage {name}: optimizer.fused=true unscales the gradients of 16-mixed "
                "itself, too late for trainer.gradient_clip_val: leave out one of them"
            )
    return trainer


def module_without_data(config: StageConfig) -> tuple[VideoClassifier, dict[str, torch.Tensor]]:
    """A stage's module, in evaluation mode, and a training clip without content that it takes.

    Both are on the meta device: they have shapes, but need no memory and no time.

    Raises:
        UserError: they do not fit, or there is no optimizer or scheduler for the module.
    """
    data = build_datamodule(config)
    try:
        with torch.device("meta"):
            module = build_module(config, build_net(config), total_steps=100).eval()
            batch = _empty_batch(data, data.frames)
            of_test = _empty_batch(data, data.test_view.count)
            module.configure_optimizers()
        with torch.no_grad(), _without_batch_norm(module):
            module.logits(batch)
            module.logits(of_test)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(f"stage {config['stage']}: {error}") from error
    return module, batch


@contextmanager
def _without_batch_norm(module: nn.Module) -> Iterator[None]:
    """Batch norm keeps shapes, and on the meta device takes most of a forward pass."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        norm.forward = nn.Identity().forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _empty_batch(data: VideoDataModule, frames: int) -> dict[str, torch.Tensor]:
    """A batch of one clip without content, on the default device."""
    size = (frames, data.crop_size, data.crop_size)
    channels = {"rgb": 3, "flow": 2 * data.flow_stack}
    return {
        modality: torch.empty(1, channels[modality], *size, dtype=torch.uint8)
        for modality in data.modalities
    }
