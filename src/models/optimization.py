"""What an optimizer gets: groups of parameters with their learning rates, and a warm-up."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR


@dataclass(frozen=True)
class LrMultipliers:
    """What the learning rate is multiplied by, for each kind of parameter.

    ST-ResNet and ST-MulNet, in their released implementations: weights 1, biases 2, weights of
    batch norm 2, its biases 1.

    Args:
        weight: of convolutions, temporal ones included, and of classifiers.
        bias: theirs.
        bn_weight: of batch norm.
        bn_bias: of batch norm.
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
    """A linear rise from a hundredth of the learning rate, then half a cosine down to zero.

    Args:
        optimizer: whose learning rates are the highest ones.
        total_steps: updates of the whole training.
        warmup: the share of them that the rise takes, 0..1.

    Raises:
        ValueError: the warm-up is no such share.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"lr_scheduler.warmup={warmup}: needs a share from 0, below 1")
    rise = round(warmup * total_steps)
    cosine = CosineAnnealingLR(optimizer, T_max=max(1, total_steps - rise))
    if not rise:
        return SequentialLR(optimizer, [cosine], milestones=[])
    linear = LinearLR(optimizer, start_factor=0.01, total_iters=rise)
    return SequentialLR(optimizer, [linear, cosine], milestones=[rise])
