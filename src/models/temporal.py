"""Where a network looks along time: filters in its units, and a pool before its classifier.

ST-ResNet (Feichtenhofer et al. 2016) turns the 1x1 convolutions of unit b of every stage into
3x1x1 ones; ST-MulNet (2017) leaves them and adds a new 3x1x1 convolution between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.models.resnet import UNIT_B, Bottleneck, ResNet
from src.values import check_choice, check_choices

STREAMS = ("appearance", "motion")
TAPS = {"average": (1, 1, 1), "identity": (0, 1, 0), "difference": (-1, 3, -1)}


class SpatialConv(nn.Conv2d):
    """A 2-D convolution that ignores time."""

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """Filter x (B * T, C, H, W) frame by frame."""
        return super().forward(x)


class TemporalConv(nn.Conv3d):
    """A 3x1x1 convolution: the same position in the frames before, at and after.

    Args:
        in_channels, out_channels: as of any convolution.
        initial: how a 1x1 filter is spread over the taps: "average", "identity" or "difference".
        bias: whether there is one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, initial: str = "average", bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1), padding=(1, 0, 0), bias=bias)
        self.initial = initial

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """Filter x (B * T, C, H, W) along time, T = frames, zeros beyond both ends."""
        # A 2-D convolution over (T, H * W) computes the same, and faster on a CPU. With channels
        # last, as `ResNet` has them, every reshape is a view.
        clips = x.unflatten(0, (-1, frames)).flatten(-2).transpose(1, 2)  # (B, C, T, H * W)
        clips = F.conv2d(clips, self.weight.squeeze(-1), self.bias, padding=(1, 0))
        return clips.transpose(1, 2).unflatten(-1, x.shape[-2:]).flatten(0, 1)

    def inflate(self, weight: Tensor) -> Tensor:
        """Spread a 1x1 filter (Cout, Cin, 1, 1) over the taps: (Cout, Cin, 3, 1, 1)."""
        taps = TAPS[self.initial]
        return torch.stack([weight * tap for tap in taps], dim=2) / sum(taps)

    @classmethod
    def converted(cls, conv: SpatialConv, initial: str) -> "TemporalConv":
        """A 1x1 convolution grown over time, as ST-ResNet does with its own."""
        temporal = cls(conv.in_channels, conv.out_channels, initial, conv.bias is not None)
        with torch.no_grad():
            temporal.weight.copy_(temporal.inflate(conv.weight))
            if conv.bias is not None and temporal.bias is not None:
                temporal.bias.copy_(conv.bias)
        return temporal

    @classmethod
    def injected(cls, channels: int, initial: str) -> "TemporalConv":
        """A new filter that leaves every channel to itself, as ST-MulNet adds them."""
        temporal = cls(channels, channels, initial, bias=True)
        with torch.no_grad():
            temporal.weight.copy_(temporal.inflate(torch.eye(channels)[..., None, None]))
            if temporal.bias is not None:
                temporal.bias.zero_()
        return temporal


@dataclass(frozen=True)
class TemporalFilters:
    """Temporal filters in unit b of every stage.

    Args:
        kind: "none"; "converted": both 1x1 convolutions of the bottleneck become 3x1x1 ones
            (ST-ResNet); "injected": a new 3x1x1 convolution, with a bias and without batch norm,
            follows the ReLU of the 3x3 one (ST-MulNet).
        initial: the three taps that it starts with, "average" (1/3, 1/3, 1/3), "identity"
            (0, 1, 0) or "difference" (-1, 3, -1): of the 1x1 filter, or of a unit matrix.
        streams: which have them: "appearance", "motion" or both.
    """

    kind: str = "converted"
    initial: str = "average"
    streams: Sequence[str] = STREAMS

    def __post_init__(self) -> None:
        check_choice("temporal_filters.kind", self.kind, ("none", "converted", "injected"))
        check_choice("temporal_filters.initial", self.initial, TAPS)
        check_choices("temporal_filters.streams", self.streams, STREAMS)
        object.__setattr__(self, "streams", tuple(self.streams))  # lists come out of a config

    def grow(self, stream: ResNet) -> None:
        """Give a stream these filters, in place.

        Raises:
            ValueError: there is no 1x1 convolution to convert.
        """
        for stage in stream.stages:
            unit = stage.unit(UNIT_B)
            if self.kind == "injected":
                unit.temporal = TemporalConv.injected(unit.width, self.initial)
            elif self.kind == "converted":
                if not isinstance(unit, Bottleneck):
                    raise ValueError(
                        f"temporal_filters.kind=converted needs 1x1 convolutions, which "
                        f"ResNet-{stream.depth} does not have: choose injected, or a depth from 50"
                    )
                for name in ("conv1", "conv3"):
                    spatial = getattr(unit, name)
                    setattr(unit, name, TemporalConv.converted(spatial, self.initial))


CONVERTED = TemporalFilters()


@dataclass(frozen=True)
class TemporalPool:
    """A pool over time alone, without padding: T frames give T' = (T - size) // stride + 1.

    Args:
        size, stride: in frames.
        kind: "max" as published, or "avg".
    """

    size: int
    stride: int
    kind: str = "max"

    def __post_init__(self) -> None:
        check_choice("temporal_pool.kind", self.kind, ("max", "avg"))
        if self.size < 1 or self.stride < 1:
            raise ValueError(f"temporal_pool: size {self.size}, stride {self.stride} must be >= 1")

    def __call__(self, clips: Tensor) -> Tensor:
        """Pool clips (B, C, T, H, W) to (B, C, T', H, W).

        Raises:
            ValueError: the clips are shorter than the pool.
        """
        frames = clips.shape[2]
        if frames < self.size:
            raise ValueError(
                f"a clip of {frames} frames is shorter than the temporal pool of {self.size}: "
                "give more (data.frames, data.test_frames) or a smaller temporal_pool.size"
            )
        pool = F.max_pool3d if self.kind == "max" else F.avg_pool3d
        return pool(clips, (self.size, 1, 1), (self.stride, 1, 1))


# Weights of the frames before, at and after (released implementation), to be divided by their sum:
# a still clip looks the same through each of them.
