"""Parameter groups with the papers' learning-rate and weight-decay factors."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# Released implementation: filters 1, biases 2, batch norm scale 2 and shift 1; decay on filters.
LR_FACTORS = {"filter": 1.0, "bias": 2.0, "bn_scale": 2.0, "bn_shift": 1.0}


def parameter_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Group a net's parameters by kind; `lr` of a group is its factor of the schedule's rate.

    Only filters (the weights of convolutions and classifiers) have the optimiser's weight decay.
    """
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in LR_FACTORS}
    for module in net.modules():
        batch_norm = isinstance(module, _BatchNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                groups["bn_shift" if batch_norm else "bias"].append(parameter)
            else:
                groups["bn_scale" if batch_norm else "filter"].append(parameter)
    return [
        {"name": kind, "params": parameters, "lr": LR_FACTORS[kind]}
        | ({} if kind == "filter" else {"weight_decay": 0.0})
        for kind, parameters in groups.items()
        if parameters
    ]
