"""How a network is trained: learning rates, mixed clips, weights of classes, frozen batch norm."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torchvision.transforms import v2
from torchvision.tv_tensors import Video

from src.models.resnet import ResNet
from src.utils.values import check_choice, number

BATCH_NORM_MODES = ("train", "frozen", "partial")


@dataclass(frozen=True)
class LrMultipliers:
    """What the learning rate is multiplied by: for weights and biases, and for those of batch norm.

    ST-ResNet and ST-MulNet, in their released implementations: weights 1, biases 2, weights of
    batch norm 2, its biases 1.
    """

    weight: float = 1.0
    bias: float = 1.0
    bn_weight: float = 1.0
    bn_bias: float = 1.0

    def __post_init__(self) -> None:
        for kind, factor in asdict(self).items():
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"optimizer.lr_multipliers.{kind}={factor}: needs a number from 0")


UNIFORM = LrMultipliers()


@dataclass(frozen=True)
class Mixing:
    """What `MixUp` and `CutMix` share.

    Args:
        alpha: the share of a clip's own content is drawn from Beta(alpha, alpha): small values
            leave most batches nearly as they are, 1 makes all shares equally likely.
    """

    alpha: float
    _transform: ClassVar[type[v2.Transform]]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"mixing.alpha={self.alpha}: needs a number above 0")

    def __call__(
        self, clips: dict[str, Tensor], label: Tensor, num_classes: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mix normalized clips (B, C, T, H, W) of each modality, of the same H and W.

        Returns:
            Clips like those given, and targets (B, K): the shares of the classes.
        """
        # made here: a transform checks its distribution, which a module built on meta cannot
        transform = self._transform(alpha=self.alpha, num_classes=num_classes)
        videos = {name: Video(clip) for name, clip in clips.items()}
        videos, target = transform(videos, label)
        mixed = {name: video.as_subclass(Tensor) for name, video in videos.items()}
        return mixed, target.to(next(iter(mixed.values())).dtype)


class MixUp(Mixing):
    """Each clip becomes a weighted mean of itself and another (Zhang et al. 2018)."""

    _transform = v2.MixUp


class CutMix(Mixing):
    """A box of each clip is filled from another, in all its frames (Yun et al. 2019)."""

    _transform = v2.CutMix


@dataclass(frozen=True)
class Optimization:
    """How a network is trained.

    Args:
        optimizer: takes groups of parameters with their learning rates.
        lr, lr_multipliers: the learning rate, and its factors for each kind of parameter.
        lr_scheduler: of torch's or alike; None keeps the rate as it is.
        lr_interval: what it is stepped after, an "epoch" or a "step" of the optimizer.
        batch_norm: "train", "frozen" or "partial": all but each stream's first layer.
        label_smoothing: the share of each target that is spread over all classes.
        mixing: of clips and their targets, None for none.
        class_weights: see `weights_of_classes`; None for none.
    """

    optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer]
    lr: float
    lr_multipliers: LrMultipliers = UNIFORM
    lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None
    lr_interval: str = "epoch"
    batch_norm: str = "train"
    label_smoothing: float = 0.0
    mixing: Mixing | None = None
    class_weights: str | Sequence[float] | None = None

    def __post_init__(self) -> None:
        smoothing = self.label_smoothing
        if not (isinstance(smoothing, int | float) and 0 <= smoothing < 1):
            raise ValueError(f"label_smoothing={smoothing}: needs a share from 0, below 1")


def parameter_groups(
    net: nn.Module, lr: float = 1.0, multipliers: LrMultipliers = UNIFORM
) -> list[dict[str, Any]]:
    """Group a net's parameters by kind, each with its learning rate.

    Only weights have the optimizer's weight decay. Frozen parameters are in no group.
    """
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in asdict(multipliers)}
    for module in net.modules():
        prefix = "bn_" if isinstance(module, _BatchNorm) else ""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                groups[f"{prefix}bias" if name == "bias" else f"{prefix}weight"].append(parameter)
    return [
        {"name": kind, "params": parameters, "lr": lr * getattr(multipliers, kind)}
        | ({} if kind == "weight" else {"weight_decay": 0.0})
        for kind, parameters in groups.items()
        if parameters
    ]


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.1) -> SequentialLR:
    """A linear rise from a hundredth of the optimizer's rates, then half a cosine down to zero.

    Args:
        optimizer: whose learning rates are the highest ones.
        total_steps: updates of the full training.
        warmup: the share of them that the rise takes, 0..1.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"lr_scheduler.warmup={warmup}: needs a share from 0, below 1")
    rise = round(warmup * total_steps)
    cosine = CosineAnnealingLR(optimizer, T_max=max(1, total_steps - rise))
    if not rise:
        return SequentialLR(optimizer, [cosine], milestones=[])
    linear = LinearLR(optimizer, start_factor=0.01, total_iters=rise)
    return SequentialLR(optimizer, [linear, cosine], milestones=[rise])


def check_class_weights(weights: Any, num_classes: int) -> None:
    """Refuse weights of the classes that are neither None, "balanced", nor K numbers above 0.

    Raises:
        ValueError: they are not.
    """
    above_0 = number("a number above 0", lambda weight: weight > 0)
    numbers = isinstance(weights, Sequence) and all(map(above_0.fits, weights))
    if not (weights in (None, "balanced") or (numbers and len(weights) == num_classes)):
        raise ValueError(
            f"class_weights={weights}: needs null, balanced, or {num_classes} numbers above 0, one "
            "for each class"
        )


def weights_of_classes(
    chosen: str | Sequence[float], labels: Sequence[int], num_classes: int
) -> Tensor:
    """The weights (K,) of the classes in the loss: K numbers, or "balanced".

    Balanced weights give every class the same share of the loss. All weights are scaled to a mean
    of 1 over the N labels of the training list, so that learning rates keep their meaning: balanced
    ones are N / (K * n_class), where K counts the classes that have training videos; one without
    weighs nothing.
    """
    counts = torch.bincount(torch.tensor(labels), minlength=num_classes)
    if chosen == "balanced":
        weights = (counts > 0) / counts.clamp(min=1)
    else:
        weights = torch.tensor([float(weight) for weight in chosen])
    return weights * (len(labels) / (weights * counts).sum())


def freeze_batch_norm(net: nn.Module, mode: str) -> None:
    """Take the layers that a mode freezes out of training; `net.train()` would take them back.

    Raises:
        ValueError: there is no such mode.
    """
    check_choice("batch_norm", mode, BATCH_NORM_MODES)
    trained = {m.bn1 for m in net.modules() if isinstance(m, ResNet)} if mode == "partial" else ()
    for layer in net.modules():
        if mode != "train" and isinstance(layer, _BatchNorm) and layer not in trained:
            layer.requires_grad_(False).eval()
