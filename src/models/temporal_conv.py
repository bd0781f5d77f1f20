"""Convolutions of a residual block: over space, frame by frame, or over time, position by position.

Both are called with the number of frames, so that a block can hold either in the same place.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Weights of the frames before, at and after (released implementation), to be divided by their sum:
# a still clip looks the same through each of them.
KERNELS = {"average": (1, 1, 1), "identity": (0, 1, 0), "difference": (-1, 3, -1)}


class SpatialConv(nn.Conv2d):
    """A 2-D convolution that ignores time."""

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """Filter x (B * T, C, H, W) frame by frame."""
        return super().forward(x)


class TemporalConv(nn.Conv3d):
    """A 3x1x1 convolution: the same position in the frames before, at and after.

    `init` says how a 1x1 filter is spread over the kernel: "average", "identity" or "difference".
    """

    def __init__(
        self, in_channels: int, out_channels: int, init: str = "average", bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1), padding=(1, 0, 0), bias=bias)
        self.init = init

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """Filter x (B * T, C, H, W) along time, T = frames, zeros beyond both ends."""
        # A 2-D convolution over (T, H * W) computes the same, and faster on a CPU. With channels
        # last, as `ResNet` has them, every reshape is a view.
        clips = x.unflatten(0, (-1, frames)).flatten(-2).transpose(1, 2)  # (B, C, T, H * W)
        clips = F.conv2d(clips, self.weight.squeeze(-1), self.bias, padding=(1, 0))
        return clips.transpose(1, 2).unflatten(-1, x.shape[-2:]).flatten(0, 1)

    def inflate(self, weight: Tensor) -> Tensor:
        """Spread a 1x1 filter (Cout, Cin, 1, 1) over the kernel: (Cout, Cin, 3, 1, 1)."""
        kernel = KERNELS[self.init]
        return torch.stack([weight * tap for tap in kernel], dim=2) / sum(kernel)

    @classmethod
    def inflated(cls, conv: SpatialConv, init: str) -> "TemporalConv":
        """A 1x1 convolution grown over time, as ST-ResNet does with its own."""
        temporal = cls(conv.in_channels, conv.out_channels, init, conv.bias is not None)
        with torch.no_grad():
            temporal.weight.copy_(temporal.inflate(conv.weight))
            if conv.bias is not None and temporal.bias is not None:
                temporal.bias.copy_(conv.bias)
        return temporal

    @classmethod
    def inserted(cls, channels: int, init: str) -> "TemporalConv":
        """A new filter that leaves every channel to itself, as ST-MulNet adds them."""
        temporal = cls(channels, channels, init, bias=True)
        with torch.no_grad():
            temporal.weight.copy_(temporal.inflate(torch.eye(channels)[..., None, None]))
            nn.init.zeros_(temporal.bias)  # type: ignore[arg-type]
        return temporal
