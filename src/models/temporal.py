"""Where a network looks along time: filters in its blocks, and a pool before its classifier.

ST-ResNet (Feichtenhofer et al. 2016) turns the 1x1 convolutions of block 1 of every stage into
3x1x1 ones; ST-MulNet (2017) leaves them and adds a new 3x1x1 convolution between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from src.models.resnet import FUSION_BLOCK, Bottleneck, ResNet
from src.models.temporal_conv import KERNELS, TemporalConv
from src.utils.values import check_choice, check_choices

STREAMS = ("appearance", "motion")


@dataclass(frozen=True)
class TemporalFilters:
    """Temporal filters in block 1 of every stage.

    Args:
        kind: "none"; "inflated": both 1x1 convolutions of the bottleneck become 3x1x1 ones
            (ST-ResNet); "inserted": a new 3x1x1 convolution, with a bias and without batch norm,
            follows the ReLU of the 3x3 one (ST-MulNet).
        init: the kernel that it starts with, "average" (1/3, 1/3, 1/3), "identity"
            (0, 1, 0) or "difference" (-1, 3, -1): of the 1x1 filter, or of an identity matrix.
        streams: which have them: "appearance", "motion" or both.
    """

    kind: str = "inflated"
    init: str = "average"
    streams: Sequence[str] = STREAMS

    def __post_init__(self) -> None:
        check_choice("temporal_filters.kind", self.kind, ("none", "inflated", "inserted"))
        check_choice("temporal_filters.init", self.init, KERNELS)
        check_choices("temporal_filters.streams", self.streams, STREAMS)
        object.__setattr__(self, "streams", tuple(self.streams))  # lists come out of a config

    def grow(self, stream: ResNet) -> None:
        """Give a stream these filters, in place.

        Raises:
            ValueError: there is no 1x1 convolution to convert.
        """
        for stage in stream.stages:
            block = stage.block(FUSION_BLOCK)
            if self.kind == "inserted":
                block.temporal = TemporalConv.inserted(block.width, self.init)
            elif self.kind == "inflated" and not isinstance(block, Bottleneck):
                raise ValueError(
                    f"temporal_filters.kind=inflated needs 1x1 convolutions, which "
                    f"ResNet-{stream.depth} does not have: choose inserted, or a depth from 50"
                )
            elif self.kind == "inflated":
                for name in ("conv1", "conv3"):
                    spatial = getattr(block, name)
                    setattr(block, name, TemporalConv.inflated(spatial, self.init))


INFLATED = TemporalFilters()


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
                "give more (data.frames, data.test.frames) or a smaller temporal_pool.size"
            )
        pool = F.max_pool3d if self.kind == "max" else F.avg_pool3d
        return pool(clips, (self.size, 1, 1), (self.stride, 1, 1))
