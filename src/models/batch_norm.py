"""Batch norm in training: as it is, frozen, or frozen but for each stream's first layer.

A frozen layer keeps the running statistics and the scale and shift that it started from, and
normalises by them. The papers freeze none; "partial" is TSN's (Wang et al. 2016), against
over-fitting to small batches and few videos.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.choices import check_choice
from src.models.resnet import ResNet

MODES = ("train", "frozen", "partial")


def frozen_layers(net: nn.Module, mode: str) -> list[_BatchNorm]:
    """The batch norm layers of a net that a mode freezes."""
    if mode == "train":
        return []
    spared = {m.bn1 for m in net.modules() if isinstance(m, ResNet)} if mode == "partial" else set()
    return [m for m in net.modules() if isinstance(m, _BatchNorm) and m not in spared]


def freeze_batch_norm(net: nn.Module, mode: str) -> None:
    """Take the layers that a mode freezes out of training, for good.

    Raises:
        ValueError: there is no such mode.
    """
    check_choice("batch_norm", mode, MODES)
    for layer in frozen_layers(net, mode):
        layer.requires_grad_(False)
    keep_frozen(net, mode)


def keep_frozen(net: nn.Module, mode: str) -> None:
    """Undo what `net.train()` did to frozen layers: they normalise by their statistics again."""
    for layer in frozen_layers(net, mode):
        layer.eval()
