"""Parameter groups: what decays, and factors of the learning rate by kind of parameter."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Factors:
    """What a schedule's learning rate is multiplied by, for each kind of parameter.

    ST-ResNet and ST-MulNet, in their released implementations: filters 1, biases 2, scales of batch
    norm 2, shifts 1.

    Args:
        filter: weights of convolutions, temporal ones included, and of classifiers.
        bias: their biases.
        bn_scale: of batch norm.
        bn_shift: of batch norm.
    """

    filter: float = 1.0
    bias: float = 1.0
    bn_scale: float = 1.0
    bn_shift: float = 1.0

    def __post_init__(self) -> None:
        for kind, factor in asdict(self).items():
            if not (math.isfinite(factor) and factor >= 0):
                raise ValueError(f"optimizer.factors.{kind}={factor}: needs a number from 0")


UNIFORM = Factors()


def parameter_groups(net: nn.Module, factors: Factors = UNIFORM) -> list[dict[str, Any]]:
    """Group a net's parameters by kind; `lr` of a group is its factor of the schedule's rate.

    Only filters have the optimiser's weight decay. Frozen parameters are in no group.
    """
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in asdict(factors)}
    for module in net.modules():
        batch_norm = isinstance(module, _BatchNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                groups["bn_shift" if batch_norm else "bias"].append(parameter)
            else:
                groups["bn_scale" if batch_norm else "filter"].append(parameter)
    return [
        {"name": kind, "params": parameters, "lr": float(getattr(factors, kind))}
        | ({} if kind == "filter" else {"weight_decay": 0.0})
        for kind, parameters in groups.items()
        if parameters
    ]
