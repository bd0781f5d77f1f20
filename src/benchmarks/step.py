"""A training step through the whole framework against a hand-written PyTorch loop."""

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.benchmarks.harness import Contender, Measurement, Timed, measure, wait
from src.models.build import Plan, build_module, build_net
from src.models.modules import VideoClassifier

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, in 0..255


def step(plan: Plan, clips: int, steps: int, rounds: int) -> Measurement:
    """Clips per second of joint training on one batch that stays in memory.

    Args:
        plan: of the stage whose network, optimiser and clips are taken.
        clips: per step.
        steps: per round.
        rounds: of all contenders.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = plan["data"]
    generator = torch.Generator().manual_seed(0)
    shape = (data["frames"], data["crop_size"], data["crop_size"])

    def images(channels: int) -> Tensor:
        size = (clips, channels, *shape)
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)

    batch = {
        "rgb": images(3),
        "flow": images(2 * data["stack"]),
        "label": torch.randint(data["num_classes"], (clips,), generator=generator),
        "video": [str(number) for number in range(clips)],
    }
    return measure(
        f"step: {clips} clips of {shape[0]} x {shape[1]} x {shape[2]}",
        "clips",
        Contender("a hand-written loop", _by_hand(plan, batch, steps, device)),
        [Contender("ours, through Lightning", _lightning(plan, batch, steps, device))],
        rounds,
        [f"{steps} steps a round on {device}; the same network, batch and optimiser for both"],
    )


def _module(plan: Plan) -> VideoClassifier:
    torch.manual_seed(0)
    return build_module(plan, build_net(plan))


def _by_hand(
    plan: Plan, batch: dict[str, Any], steps: int, device: torch.device
) -> Callable[[], Timed]:
    module = _module(plan)
    net = module.to(device).train().net
    optimizer = module.build_optimizer()
    mean, std = (torch.tensor(x, device=device).view(3, 1, 1, 1) for x in (MEAN, STD))

    def run() -> Timed:
        wait(device)
        start = time.perf_counter()
        for _ in range(steps):
            rgb = batch["rgb"].to(device, non_blocking=True)
            flow = batch["flow"].to(device, non_blocking=True)
            label = batch["label"].to(device, non_blocking=True)
            logits = net((rgb.float() - mean) / std, (flow.float() - 128) / 57.63)
            losses = [
                F.cross_entropy(x.flatten(0, 1), label.repeat_interleave(x.shape[1]))
                for x in logits
            ]
            loss = torch.stack(losses).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        wait(device)
        return Timed(steps * len(batch["label"]), time.perf_counter() - start)

    return run


class _OneBatch(Dataset[dict[str, Any]]):
    def __init__(self, batch: dict[str, Any], times: int) -> None:
        self._batch, self._times = batch, times

    def __len__(self) -> int:
        return self._times

    def __getitem__(self, _: int) -> dict[str, Any]:
        return self._batch


class _Watch(pl.Callback):
    """Times the steps alone, without the start of the trainer."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wait(pl_module.device)
        self.begin = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if trainer.is_last_batch:
            wait(pl_module.device)
            self.end = time.perf_counter()


def _lightning(
    plan: Plan, batch: dict[str, Any], steps: int, device: torch.device
) -> Callable[[], Timed]:
    module = _module(plan)
    loader = DataLoader(_OneBatch(batch, steps), batch_size=None)

    def run() -> Timed:
        watch = _Watch()
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            callbacks=[watch],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)
        return Timed(steps * len(batch["label"]), watch.end - watch.begin)

    return run
