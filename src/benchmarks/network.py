"""The networks' layout, 2-D convolutions over frames beside temporal filters, against Conv3d alone.

Both hold the same weights and give the same logits; only the layout in memory and the kernels that
it leads to differ.
"""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.benchmarks.harness import Contender, Measurement, Timed, measure, wait
from src.models.resnet import POOL_WINDOW, ResNet
from src.models.temporal_conv import TemporalConv
from src.models.two_stream import TwoStreamResNet

LAYOUTS = {
    "all Conv3d": torch.contiguous_format,
    "all Conv3d, channels last": torch.channels_last_3d,
}


class Conv3d(nn.Conv3d):
    """A volumetric convolution in the place of a spatial or a temporal one."""

    def forward(self, x: Tensor, frames: int = 0) -> Tensor:
        """Filter x (B, C, T, H, W)."""
        return super().forward(x)


class VolumetricResNet(ResNet):
    """A stream whose activations are (B, C, T, H, W) throughout."""

    def stem(self, clip: Tensor) -> Tensor:
        """First convolution and pooling."""
        return self.maxpool(F.relu(self.bn1(self.conv1(clip))))

    def classify(
        self, x: Tensor, frames: int, pool: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Logits (B, T', K)."""
        if pool is not None:
            x = pool(x)
        window = (1, min(POOL_WINDOW, x.shape[-2]), min(POOL_WINDOW, x.shape[-1]))
        features = F.avg_pool3d(x, window, stride=1).mean((-2, -1))  # (B, C, T')
        return self.fc(self.dropout(features.transpose(1, 2)))


def as_conv3d(net: TwoStreamResNet, layout: torch.memory_format) -> TwoStreamResNet:
    """A copy of a network with the same weights in which every convolution is a Conv3d."""
    volumetric = deepcopy(net)
    for stream in (volumetric.appearance, volumetric.motion):
        _replace(stream)
        stream.__class__ = VolumetricResNet
    return volumetric.to(memory_format=layout)


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, (nn.Conv2d, TemporalConv)):
            setattr(module, name, _conv3d(child))
        elif isinstance(child, nn.BatchNorm2d):
            norm = nn.BatchNorm3d(child.num_features, dtype=child.weight.dtype)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm.train(child.training))
        elif isinstance(child, nn.MaxPool2d):
            padding = 0 if child.ceil_mode else 1
            pool = nn.MaxPool3d(
                (1, 3, 3), (1, 2, 2), (0, padding, padding), ceil_mode=child.ceil_mode
            )
            setattr(module, name, pool)
        else:
            _replace(child)


def _conv3d(conv: nn.Conv2d | TemporalConv) -> Conv3d:
    in_time: dict[str, Any] = {"kernel_size": (1,), "stride": (1,), "padding": (0,)}
    if isinstance(conv, TemporalConv):
        in_time = dict.fromkeys(in_time, ())
    shape: dict[str, Any] = {
        name: (*first, *getattr(conv, name)) for name, first in in_time.items()
    }
    bias, dtype = conv.bias is not None, conv.weight.dtype
    volumetric = Conv3d(conv.in_channels, conv.out_channels, **shape, bias=bias, dtype=dtype)
    with torch.no_grad():
        volumetric.weight.copy_(conv.weight.reshape(volumetric.weight.shape))
        if volumetric.bias is not None and conv.bias is not None:
            volumetric.bias.copy_(conv.bias)
    return volumetric


def network(
    net: TwoStreamResNet, clips: int, frames: int, size: int, rounds: int
) -> Iterator[Measurement]:
    """Clips per second of both layouts, forwards and in training (forwards and backwards).

    Args:
        net: any two-stream network.
        clips: per batch.
        frames, size: of a clip.
        rounds: of all contenders.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    rgb, flow = (
        torch.randn(clips, channels, frames, size, size, generator=generator).to(device)
        for channels in (3, net.motion.in_channels)
    )
    nets = {"ours: 2-D over frames, temporal filters": net.to(device)}
    for name, layout in LAYOUTS.items():
        nets[name] = as_conv3d(net, layout).to(device)
    apart = _largest_difference(list(nets.values()), rgb, flow)
    shape = f"{clips} clips of {frames} x {size} x {size} on {device}"
    remark = f"logits of the layouts differ by {apart:.1e} of the largest at most"

    def run(net: nn.Module, training: bool) -> Callable[[], Timed]:
        def once() -> Timed:
            net.train(training)
            wait(device)
            start = time.perf_counter()
            with torch.set_grad_enabled(training):
                logits = net(rgb, flow)
            if training:
                net.zero_grad(set_to_none=True)
                torch.stack([x.square().mean() for x in logits]).sum().backward()
            wait(device)
            return Timed(clips, time.perf_counter() - start)

        return once

    for training, title in ((False, "forwards"), (True, "forwards and backwards")):
        ours, *others = [Contender(name, run(net, training)) for name, net in nets.items()]
        yield measure(
            f"network, {title}: {shape}", "clips", others[0], [others[1], ours], rounds, [remark]
        )


@torch.no_grad()
def _largest_difference(nets: list[TwoStreamResNet], rgb: Tensor, flow: Tensor) -> float:
    ours, *others = [torch.stack(net.eval()(rgb, flow)) for net in nets]
    return max(float((other - ours).abs().max() / ours.abs().max()) for other in others)
