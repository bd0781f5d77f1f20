"""One stream: a ResNet over the frames of a clip, in torchvision's names.

Spatial layers are 2-D convolutions over the B * T frames; only a `TemporalConv` looks along time.
He et al. 2015 for the network, Feichtenhofer et al. 2016 for the temporal filters.

    frames (B, C, T, H, W) -> stem -> layer1 .. layer4 -> pool -> dropout -> fc -> (B, T', K)

A block returns its sum BEFORE the last ReLU, and takes the inputs of its shortcut and of its
residual branch apart: cross-stream connections (`src.models.connection`) need both.
"""

import contextlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from src.models.temporal_conv import SpatialConv, TemporalConv
from src.utils.values import check_choice

FUSION_BLOCK = 1  # the second block of a stage: gets the connection and the temporal filters
POOL_WINDOW = 7  # side of the final feature map at the 224 pixels that ResNets are trained at
# How conv1 for flow starts from RGB filters: which of their channels go to the first six inputs.
MIRRORED = (0, 1, 2, 2, 1, 0)


class StemConv(nn.Conv2d):
    """conv1: 7x7 with stride 2, over as many channels as the input has.

    `inflation` says how filters for RGB become filters for a flow stack: "mean", the mean over RGB
    for every channel (released implementation), or "mirrored", the RGB channels repeated as
    R, G, B, B, G, R, R, ... (an earlier revision of it).
    """

    def __init__(self, channels: int, inflation: str = "mean", **arguments: Any) -> None:
        check_choice("conv1_inflation", inflation, ("mean", "mirrored"))
        super().__init__(out_channels=channels, kernel_size=7, stride=2, padding=3, **arguments)
        self.inflation = inflation

    def inflate(self, weight: Tensor) -> Tensor:
        """RGB filters (C, 3, 7, 7) for this convolution's channels."""
        if self.inflation == "mean":
            return weight.mean(1, keepdim=True).repeat(1, self.in_channels, 1, 1)
        order = [MIRRORED[channel % len(MIRRORED)] for channel in range(self.in_channels)]
        return weight[:, order]


class ResidualBlock(nn.Module):
    """A residual block; see `Basic` and `Bottleneck` for what its branch does.

    Args:
        width: channels between its convolutions, where an inserted temporal filter works.
    """

    expansion: int  # channels of the sum, in widths

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.gradient_checkpointing = width, False
        self.temporal: TemporalConv | None = None
        self.downsample: nn.Module | None = None

    def _project(self, in_channels: int, stride: int) -> None:
        """Send the shortcut through a 1x1 convolution if the block changes its shape."""
        out_channels = self.width * self.expansion
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def residual(self, x: Tensor, frames: int) -> Tensor:
        """The residual branch."""
        raise NotImplementedError

    def forward(self, shortcut: Tensor, branch: Tensor, frames: int) -> Tensor:
        """Sum of the shortcut and of the residual branch, before the ReLU.

        Args:
            shortcut: what the identity or projection carries on, (B * T, C, H, W).
            branch: what the residual branch works on; the same tensor but for a connected block.
            frames: T.
        """
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            # a compiler updates running statistics once by itself, and knows no other context
            context: dict[str, Any] = {}
            if not torch.compiler.is_compiling():
                context["context_fn"] = lambda: (contextlib.nullcontext(), statistics_kept(self))
            return checkpoint(self._sum, shortcut, branch, frames, use_reentrant=False, **context)
        return self._sum(shortcut, branch, frames)

    def _sum(self, shortcut: Tensor, branch: Tensor, frames: int) -> Tensor:
        residual = self.residual(branch, frames)
        return residual + (shortcut if self.downsample is None else self.downsample(shortcut))

    def _along_time(self, x: Tensor, frames: int) -> Tensor:
        return x if self.temporal is None else self.temporal(x, frames)


@contextlib.contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms leave their running statistics alone: a recomputed batch is not a second one."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [(norm.momentum, deepcopy(norm.num_batches_tracked)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and batches is not None:
                norm.num_batches_tracked.copy_(batches)


class Basic(ResidualBlock):
    """Two 3x3 convolutions, each with batch norm: the block of ResNet-18 and -34."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, stride_first: bool) -> None:
        super().__init__(width)  # the stride is on the first convolution in both styles
        self.conv1 = SpatialConv(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SpatialConv(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self._project(in_channels, stride)

    def residual(self, x: Tensor, frames: int) -> Tensor:
        """3x3, 3x3."""
        x = self._along_time(F.relu(self.bn1(self.conv1(x, frames))), frames)
        return self.bn2(self.conv2(x, frames))


class Bottleneck(ResidualBlock):
    """1x1 down to `width`, 3x3, 1x1 up to 4 * `width`, each with batch norm."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, stride_first: bool) -> None:
        super().__init__(width)
        out_channels = width * self.expansion
        first, second = (stride, 1) if stride_first else (1, stride)
        self.conv1: SpatialConv | TemporalConv = SpatialConv(
            in_channels, width, 1, stride=first, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SpatialConv(width, width, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3: SpatialConv | TemporalConv = SpatialConv(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self._project(in_channels, stride)

    def residual(self, x: Tensor, frames: int) -> Tensor:
        """1x1, 3x3, 1x1; the first and the last are 3x1x1 where they were inflated."""
        x = F.relu(self.bn1(self.conv1(x, frames)))
        x = self._along_time(F.relu(self.bn2(self.conv2(x, frames))), frames)
        return self.bn3(self.conv3(x, frames))


# The blocks of each depth, and how many each of the four stages has.
DEPTHS: dict[int, tuple[type[Basic] | type[Bottleneck], tuple[int, ...]]] = {
    18: (Basic, (2, 2, 2, 2)),
    34: (Basic, (3, 4, 6, 3)),
    26: (Bottleneck, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResStage(nn.Sequential):
    """The residual blocks of one resolution (conv2_x .. conv5_x, torchvision's layer1 .. 4)."""

    def forward(self, x: Tensor, frames: int, first_block: int = 0) -> Tensor:  # type: ignore[override]
        """Run x (B * T, C, H, W), an activation after its ReLU, through blocks first_block.. ."""
        for block in self[first_block:]:
            x = F.relu(block(x, x, frames))
        return x

    def block(self, index: int) -> ResidualBlock:
        """One of its blocks, from 0."""
        return self[index]  # type: ignore[return-value]


class ResNet(nn.Module):
    """A ResNet over single frames or flow stacks.

    The two styles are the same network in two details of layout: where a stage halves the
    resolution, torchvision's 3x3 convolution has the stride, in He et al.'s own (Caffe) the 1x1
    before it; and Caffe's conv1 has a bias, its first pool no padding but a partial last window.

    Args:
        num_classes: K.
        in_channels: 3 for RGB, 2L for a stack of L flow fields.
        depth: 18, 34 (basic blocks), 26, 50, 101 or 152 (bottlenecks).
        width: channels of the first stage's convolutions; 64 is He et al.'s network, less is for
            experiments.
        dropout: drop probability before the classifier.
        style: "torchvision" or "caffe".
        conv1_inflation: see `StemConv`.
        gradient_checkpointing: keep the sums of blocks alone for the backward pass and compute
            what is inside them again: less memory, more time, the same numbers.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        depth: int = 50,
        width: int = 64,
        dropout: float = 0.0,
        style: str = "torchvision",
        conv1_inflation: str = "mean",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_choice("depth", depth, sorted(DEPTHS))
        check_choice("style", style, ("torchvision", "caffe"))
        self.in_channels, self.depth, self.width = in_channels, depth, width
        caffe = style == "caffe"
        self.conv1 = StemConv(width, conv1_inflation, in_channels=in_channels, bias=caffe)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=0 if caffe else 1, ceil_mode=caffe)
        block_type, blocks_per_stage = DEPTHS[depth]
        self.channels: list[int] = []  # of each stage's output
        channels = width
        for stage, count in enumerate(blocks_per_stage):
            stage_width = width * 2**stage
            blocks = []
            for stride in [1 if stage == 0 else 2] + [1] * (count - 1):
                blocks.append(block_type(channels, stage_width, stride, stride_first=caffe))
                channels = stage_width * block_type.expansion
                blocks[-1].gradient_checkpointing = gradient_checkpointing
            self.channels.append(channels)
            self.add_module(f"layer{stage + 1}", ResStage(*blocks))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self._initialize()

    @property
    def stages(self) -> list[ResStage]:
        """layer1 .. layer4."""
        return [self.get_submodule(f"layer{stage}") for stage in (1, 2, 3, 4)]  # type: ignore[misc]

    def forward(self, clip: Tensor) -> Tensor:
        """Logits (B, T, K) of a float clip (B, C, T, H, W), each frame by itself."""
        frames = clip.shape[2]
        x = self.stem(clip)
        for stage in self.stages:
            x = stage(x, frames)
        return self.classify(x, frames)

    def stem(self, clip: Tensor) -> Tensor:
        """First convolution and pooling: (B, C, T, H, W) to (B * T, width, H / 4, W / 4)."""
        x = clip.transpose(1, 2).flatten(0, 1)  # (B * T, C, H, W)
        return self.maxpool(F.relu(self.bn1(self.conv1(x))))

    def classify(
        self, x: Tensor, frames: int, pool: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Logits (B, T', K) of final features (B * T, C, H, W).

        Maps larger than the 7x7 of training are read fully convolutionally: the 7x7 pool slides
        with stride 1 and the logits of its positions are averaged. The classifier is linear, so
        averaging before it is the same. `pool`, over time, is applied to (B, C, T, H, W) before.
        """
        if pool is not None:
            clips = pool(x.unflatten(0, (-1, frames)).transpose(1, 2))  # (B, C, T', H, W)
            frames = clips.shape[2]
            x = clips.transpose(1, 2).flatten(0, 1)
        window = (min(POOL_WINDOW, x.shape[-2]), min(POOL_WINDOW, x.shape[-1]))
        features = F.avg_pool2d(x, window, stride=1).mean((-2, -1))  # (B * T', C)
        return self.fc(self.dropout(features)).unflatten(0, (-1, frames))

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        # The layout that convolutions are fastest in, on CPU and GPU; values are unchanged.
        self.to(memory_format=torch.channels_last)


def appearance_stream(num_classes: int, depth: int = 50, width: int = 64, **options: Any) -> ResNet:
    """A ResNet over RGB frames (B, 3, T, H, W); `options` as for `ResNet`."""
    return ResNet(num_classes, 3, depth, width, **options)


def motion_stream(
    num_classes: int, flow_stack: int, depth: int = 50, width: int = 64, **options: Any
) -> ResNet:
    """A ResNet over stacks of L = `flow_stack` flow fields (B, 2L, T, H, W); `options` likewise."""
    return ResNet(num_classes, 2 * flow_stack, depth, width, **options)
