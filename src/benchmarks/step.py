"""A training step through the full framework against a hand-written PyTorch loop.

Both train the same network on the same batch, which stays in memory, with the same options of
speed.
"""

import copy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Checkpoint
from torch import nn
from torch.utils.data import DataLoader

from src.benchmarks.harness import Candidate, Measurement, Timed, measure, wait
from src.experiment.build import build_module, build_net
from src.experiment.config import StageConfig, stage_config
from src.experiment.run_dir import StageDir
from src.models.modules import VideoClassifier
from src.training.callbacks import SeedSteps
from src.training.loggers import Loggers
from src.training.speed import check_speed, compile_nets, convolutions_tried, set_tf32
from src.training.throughput import Throughput
from src.training.trainer import build_trainer, instantiate_trainer

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, in 0..255
WARM_UP = 3  # first steps of a training that do not count: they allocate, and may compile
MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
Batch = dict[str, Any]


def step(
    cfg: DictConfig, stage: str, setting: str, clips: int, steps: int, rounds: int
) -> Measurement:
    """Clips per second of training a stage's network, by rounds of `steps` steps of `clips` clips.

    `cfg` has everybody's options of speed; `setting` is for the title.

    Raises:
        UserError: this machine does not have what the setting needs.
    """
    config = stage_config(cfg, stage)
    config |= {
        "effective_batch_size": clips,
        "max_epochs": 1,
        "data": config["data"] | {"batch_size": clips},
    }
    trainer = instantiate_trainer(cfg.trainer)
    device = trainer.strategy.root_device
    check_speed(cfg.compile, cfg.tf32, device)
    set_tf32(cfg.tf32)
    batch = _batch(config, clips, device)
    precision = str(cfg.trainer.precision)
    by_hand = build_net(config)
    in_module = copy.deepcopy(by_hand)
    compile_nets(cfg.compile, by_hand, in_module)

    def loop() -> Callable[[], Timed]:
        module = build_module(config, by_hand, WARM_UP + steps)
        optimizer = module.configure_optimizers()["optimizer"]
        return partial(_hand_written, by_hand, optimizer, precision, device, batch, steps)

    def through_lightning() -> Callable[[], Timed]:
        module = build_module(config, in_module, WARM_UP + steps)
        return partial(_fit, module, cfg, config, batch, steps)

    with convolutions_tried(cfg.trainer.benchmark):
        return measure(
            f"step: {clips} clips of {' x '.join(map(str, _shape(config)))}, {setting}",
            "clips",
            [
                _candidate("a hand-written loop", loop, device),
                _candidate("ours, through Lightning", through_lightning, device),
            ],
            rounds,
            [f"{steps} steps a round on {device}; the same network, batch and optimizer for both"],
            warm=device.type == "cuda",  # each has run once, for its note
        )


def _shape(config: StageConfig) -> tuple[int, int, int]:
    """T, H and W of a clip."""
    data = config["data"]
    return data["frames"], data["crop_size"], data["crop_size"]


def _batch(config: StageConfig, clips: int, device: torch.device) -> Batch:
    """Clips without meaning, as a loader gives them: in memory that a GPU can fetch from."""
    data, generator = config["data"], torch.Generator().manual_seed(0)
    channels = {"rgb": 3, "flow": 2 * data["flow_stack"]}
    batch = {}
    for name in data["modalities"]:
        size = (clips, channels[name], *_shape(config))
        batch[name] = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    batch["label"] = torch.randint(data["num_classes"], (clips,), generator=generator)
    pinned = {name: tensor.pin_memory() for name, tensor in batch.items() if device.type == "cuda"}
    return batch | pinned | {"video": [str(number) for number in range(clips)]}


def _candidate(
    name: str, build: Callable[[], Callable[[], Timed]], device: torch.device
) -> Candidate:
    """What it needs on a GPU, weights and optimizer included, is its note."""
    if device.type != "cuda":
        return Candidate(name, build())
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run = build()
    run()
    peak = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    return Candidate(name, run, f"{peak:.2f} GiB")


def _hand_written(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: str,
    device: torch.device,
    batch: Batch,
    steps: int,
) -> Timed:
    """What anybody would write."""
    net = net.to(device).train()
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1, 1) for values in (MEAN, STD))
    dtype, clips = MIXED.get(precision), len(batch["label"])
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")
    for turn in range(WARM_UP + steps):
        if turn == WARM_UP:
            wait(device)
            start = time.perf_counter()
        inputs, label = [], batch["label"].to(device, non_blocking=True)
        if "rgb" in batch:
            inputs.append((batch["rgb"].to(device, non_blocking=True).float() - mean) / std)
        if "flow" in batch:
            inputs.append((batch["flow"].to(device, non_blocking=True).float() - 128) / 57.63)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = net(*inputs)
            losses = []
            for scores in logits if isinstance(logits, tuple) else (logits,):
                scores = scores.flatten(0, 1)  # (B * T', K)
                target = label.repeat_interleave(len(scores) // len(label))
                losses.append(F.cross_entropy(scores, target))
            loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    wait(device)
    return Timed(steps * clips, time.perf_counter() - start)


class _Watch(pl.Callback):
    """Times the steps after the first few, without the start and the end of the trainer."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == WARM_UP:
            wait(pl_module.device)
            self.begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wait(pl_module.device)
        self.end = time.perf_counter()


def _fit(
    module: VideoClassifier, cfg: DictConfig, config: StageConfig, batch: Batch, steps: int
) -> Timed:
    """An epoch with the trainer, the callbacks and the loggers of training; nothing is saved."""
    watch = _Watch()
    loader: Any = DataLoader([batch] * (WARM_UP + steps), batch_size=None)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        stage_dir = StageDir(Path(folder))
        with Loggers(cfg.logger).of_stage(stage_dir.path, config) as loggers:
            callbacks = [watch, SeedSteps(config["seed"]), Throughput()]
            trainer = build_trainer(cfg, config, callbacks, stage_dir, loggers)
            kept = [c for c in trainer.callbacks if not isinstance(c, Checkpoint)]  # type: ignore[attr-defined]
            trainer.callbacks = kept  # type: ignore[attr-defined]
            trainer.fit(module, loader)
    return Timed(steps * len(batch["label"]), watch.end - watch.begin)
