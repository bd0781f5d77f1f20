"""A training step through the whole framework against a hand-written PyTorch loop.

Both train the same network on the same batch, which stays in memory, with the same options of
speed; and so does a plain ResNet over as many images, a yardstick that everybody has figures of.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from src.benchmarks.flops import training_flops, utilisation
from src.benchmarks.harness import Contender, Measurement, Timed, measure, wait
from src.experiment.build import build_module, build_net
from src.experiment.config import StageConfig, stage_config
from src.models.modules import VideoClassifier
from src.models.resnet import ResNet, appearance_stream
from src.training.callbacks import SeedSteps
from src.training.loggers import Loggers
from src.training.run_dir import StageDir
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
    """Clips per second of training, in one setting.

    Args:
        cfg: of training; its options of speed are everybody's.
        stage: whose network, optimiser and clips are taken.
        setting: for the title.
        clips: per step.
        steps: per round.
        rounds: of all contenders.

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
    images = config["data"]["frames"] * len(config["data"]["modalities"])  # of each clip
    precision = str(cfg.trainer.precision)
    by_hand, ours, plain = _net(config), _net(config), _plain_resnet(config)
    compile_nets(cfg.compile, by_hand, ours, plain)

    def loop(net: nn.Module, batch: Batch) -> Callable[[], Timed]:
        module = build_module(config, net, WARM_UP + steps)
        optimizer = module.configure_optimizers()["optimizer"]
        hand_written = _Loop(net, optimizer, precision, device)
        return lambda: hand_written.run(batch, steps)

    def through_lightning() -> Callable[[], Timed]:
        module = build_module(config, ours, WARM_UP + steps)
        return lambda: _fit(module, cfg, config, batch, steps)

    name = f"ResNet-{plain.depth}, {images} images a clip"
    with warnings.catch_warnings(), convolutions_tried(cfg.trainer.benchmark):
        warnings.filterwarnings("ignore", ".*have no `val_dataloader`")
        measured = measure(
            f"step: {clips} clips of {' x '.join(map(str, _shape(config)))}, {setting}",
            "clips",
            _contender("a hand-written loop", lambda: loop(by_hand, batch), device),
            [
                _contender("ours, through Lightning", through_lightning, device),
                _contender(name, lambda: loop(plain, _as_images(batch, images)), device),
            ],
            rounds,
            warm=device.type == "cuda",  # each has run once, for its note
        )
    _, row, yardstick = measured.rows
    flops, of_plain = _flops(config), images * _flops_of_image(config)
    remarks = [
        f"{steps} steps a round on {device}; the same network, batch and optimiser for both",
        f"{flops / 1e9:.4g} GFLOP a clip, forwards and backwards; "
        f"ours: {utilisation(flops * row.rate, device, precision)}",
        f"the plain ResNet: {yardstick.rate * images:.4g} images/s, "
        f"{utilisation(of_plain * yardstick.rate, device, precision)}",
    ]
    return replace(measured, remarks=remarks)


def _shape(config: StageConfig) -> tuple[int, int, int]:
    """T, H and W of a clip."""
    data = config["data"]
    return data["frames"], data["crop_size"], data["crop_size"]


def _batch(config: StageConfig, clips: int, device: torch.device) -> Batch:
    """Clips without meaning, as a loader gives them: in memory that a GPU can fetch from."""
    data, generator = config["data"], torch.Generator().manual_seed(0)
    channels = {"rgb": 3, "flow": 2 * data["stack"]}
    batch = {
        name: torch.randint(
            0, 256, (clips, channels[name], *_shape(config)), dtype=torch.uint8, generator=generator
        )
        for name in data["modalities"]
    }
    batch["label"] = torch.randint(data["num_classes"], (clips,), generator=generator)
    pinned = {name: tensor.pin_memory() for name, tensor in batch.items() if device.type == "cuda"}
    return batch | pinned | {"video": [str(number) for number in range(clips)]}


def _as_images(batch: Batch, images: int) -> Batch:
    """RGB images (B * images, 3, 1, H, W), as many as the clips of a batch have."""
    clips = next(batch[name] for name in ("rgb", "flow") if name in batch)[:, :3]
    frames = clips.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (B * T, 3, 1, H, W)
    rgb = frames.repeat(images * len(clips) // len(frames), 1, 1, 1, 1)
    return {"rgb": rgb.pin_memory() if clips.is_pinned() else rgb, "label": batch["label"]}


def _net(config: StageConfig) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = build_net(config)
    return net


def _plain_resnet(config: StageConfig) -> ResNet:
    """A ResNet over single RGB images, as deep and wide as the streams."""
    net = config["model"][config["network"]]
    stream = net.get("appearance", net)
    torch.manual_seed(0)
    return appearance_stream(
        config["data"]["num_classes"],
        stream["depth"],
        stream["width"],
        checkpointing=stream["checkpointing"],
    )


def _flops(config: StageConfig) -> int:
    """Of a clip, forwards and backwards."""
    channels = {"rgb": 3, "flow": 2 * config["data"]["stack"]}
    with torch.device("meta"):
        clip = [
            torch.empty(1, channels[name], *_shape(config)) for name in config["data"]["modalities"]
        ]
        return training_flops(build_net(config), clip)


def _flops_of_image(config: StageConfig) -> int:
    """Of an image in the plain ResNet, likewise."""
    side = config["data"]["crop_size"]
    with torch.device("meta"):
        return training_flops(_plain_resnet(config), [torch.empty(1, 3, 1, side, side)])


def _contender(
    name: str, build: Callable[[], Callable[[], Timed]], device: torch.device
) -> Contender:
    """What it needs on a GPU, weights and optimiser included, is its note."""
    if device.type != "cuda":
        return Contender(name, build())
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run = build()
    run()
    peak = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    return Contender(name, run, f"{peak:.2f} GiB")


class _Loop:
    """What anybody would write."""

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, precision: str, device: torch.device
    ) -> None:
        self.net, self.optimizer, self.device = net.to(device).train(), optimizer, device
        self.mean, self.std = (
            torch.tensor(values, device=device).view(3, 1, 1, 1) for values in (MEAN, STD)
        )
        self.dtype = MIXED.get(precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")

    def run(self, batch: Batch, steps: int) -> Timed:
        for turn in range(WARM_UP + steps):
            if turn == WARM_UP:
                wait(self.device)
                start = time.perf_counter()
            self._step(self._normalised(batch), batch["label"].to(self.device, non_blocking=True))
        wait(self.device)
        return Timed(steps * len(batch["label"]), time.perf_counter() - start)

    def _normalised(self, batch: Batch) -> list[Tensor]:
        clips = []
        if "rgb" in batch:
            rgb = batch["rgb"].to(self.device, non_blocking=True)
            clips.append((rgb.float() - self.mean) / self.std)
        if "flow" in batch:
            flow = batch["flow"].to(self.device, non_blocking=True)
            clips.append((flow.float() - 128) / 57.63)
        return clips

    def _step(self, inputs: Sequence[Tensor], label: Tensor) -> None:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.net(*inputs)
            logits = logits if isinstance(logits, tuple) else (logits,)
            losses = []
            for scores in logits:
                scores = scores.flatten(0, 1)
                target = label.repeat_interleave(len(scores) // len(label))
                losses.append(F.cross_entropy(scores, target))
            loss = torch.stack(losses).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


class _OneBatch(Dataset[Batch]):
    def __init__(self, batch: Batch, times: int) -> None:
        self._batch, self._times = batch, times

    def __len__(self) -> int:
        return self._times

    def __getitem__(self, _: int) -> Batch:
        return self._batch


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
    module: VideoClassifier,
    cfg: DictConfig,
    config: StageConfig,
    batch: Batch,
    steps: int,
) -> Timed:
    """A pass with the trainer, the callbacks and the loggers of training; nothing is saved."""
    watch = _Watch()
    loader = DataLoader(_OneBatch(batch, WARM_UP + steps), batch_size=None)
    with tempfile.TemporaryDirectory() as folder:
        stage_dir = StageDir(Path(folder))
        with Loggers(cfg.logger).of_stage(stage_dir.path, config) as loggers:
            callbacks = [watch, SeedSteps(config["seed"]), Throughput()]
            trainer = build_trainer(cfg, config, callbacks, stage_dir, loggers)
            trainer.callbacks = [  # type: ignore[attr-defined]
                one
                for one in trainer.callbacks  # type: ignore[attr-defined]
                if not isinstance(one, Checkpoint)
            ]
            trainer.fit(module, loader)
    return Timed(steps * len(batch["label"]), watch.end - watch.begin)
