"""One stream: a bottleneck ResNet over the frames of a clip, in torchvision's names.

Spatial layers are 2-D convolutions over the B * T frames; only a `TemporalConv` looks along time.
He et al. 2015 for the network (stride on the 3x3 convolution, as in torchvision), Feichtenhofer et
al. 2016 for the temporal filters.

    frames (B, C, T, H, W) -> stem -> layer1 .. layer4 -> pool -> dropout -> fc -> (B, T', K)

A unit returns its sum BEFORE the last ReLU, and takes the inputs of its shortcut and of its
residual branch apart: cross-stream connections (`src.models.two_stream`) need both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNITS_PER_STAGE = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
POOL_WINDOW = 7  # side of the final feature map at the 224 pixels that ResNets are trained at


class SpatialConv(nn.Conv2d):
    """A 2-D convolution that ignores time, so that a unit can call all of its filters alike."""

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """Filter x (B * T, C, H, W) frame by frame."""
        return super().forward(x)


class TemporalConv(nn.Conv3d):
    """A 3x1x1 convolution: the same position in the frames before, at and after.

    ST-ResNet's convolution across time, initialised from a 1x1 one.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, (3, 1, 1), padding=(1, 0, 0), bias=bias)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """Filter x (B * T, C, H, W) along time, T = frames, zeros beyond both ends."""
        # A 2-D convolution over (T, H * W) computes the same, and faster on a CPU. With channels
        # last, as `ResNet` has them, every reshape is a view.
        clips = x.unflatten(0, (-1, frames)).flatten(-2).transpose(1, 2)  # (B, C, T, H * W)
        clips = F.conv2d(clips, self.weight.squeeze(-1), self.bias, padding=(1, 0))
        return clips.transpose(1, 2).unflatten(-1, x.shape[-2:]).flatten(0, 1)

    @classmethod
    def from_spatial(cls, conv: SpatialConv) -> "TemporalConv":
        """Grow a 1x1 convolution over time: a third of its weights in each tap, an average."""
        temporal = cls(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
        with torch.no_grad():
            temporal.weight.copy_(inflate_over_time(conv.weight))
            if conv.bias is not None and temporal.bias is not None:
                temporal.bias.copy_(conv.bias)
        return temporal


def inflate_over_time(weight: Tensor, taps: int = 3) -> Tensor:
    """Spread a 1x1 filter (Cout, Cin, 1, 1) evenly over `taps`: (Cout, Cin, taps, 1, 1)."""
    return weight.unsqueeze(2).repeat(1, 1, taps, 1, 1) / taps


class Bottleneck(nn.Module):
    """A residual unit: 1x1 down to `width`, 3x3, 1x1 up to 4 * `width`, each with batch norm."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1: SpatialConv | TemporalConv = SpatialConv(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = SpatialConv(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3: SpatialConv | TemporalConv = SpatialConv(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, shortcut: Tensor, branch: Tensor, frames: int) -> Tensor:
        """Sum of the shortcut and of the residual branch, before the ReLU.

        Args:
            shortcut: what the identity or projection carries on, (B * T, C, H, W).
            branch: what the residual branch works on; the same tensor but for a connected unit.
            frames: T.
        """
        residual = F.relu(self.bn1(self.conv1(branch, frames)))
        residual = F.relu(self.bn2(self.conv2(residual, frames)))
        residual = self.bn3(self.conv3(residual, frames))
        return residual + (shortcut if self.downsample is None else self.downsample(shortcut))


class Stage(nn.Sequential):
    """The residual units of one resolution (conv2_x .. conv5_x, torchvision's layer1 .. layer4)."""

    def forward(  # type: ignore[override]
        self, x: Tensor, frames: int, first_unit: int = 0
    ) -> Tensor:
        """Run x (B * T, C, H, W), an activation after its ReLU, through units first_unit.. ."""
        for unit in self[first_unit:]:
            x = F.relu(unit(x, x, frames))
        return x


class ResNet(nn.Module):
    """A bottleneck ResNet over single frames or flow stacks.

    Args:
        num_classes: K.
        in_channels: 3 for RGB, 2L for a stack of L flow fields.
        depth: 26, 50, 101 or 152 layers.
        width: channels of the first stage's bottleneck; 64 is He et al.'s network, less is for
            experiments.
        dropout: drop probability before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        depth: int = 50,
        width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth not in UNITS_PER_STAGE:
            choices = ", ".join(map(str, UNITS_PER_STAGE))
            raise ValueError(f"depth {depth} is not a bottleneck ResNet: choose from {choices}")
        self.in_channels, self.depth, self.width = in_channels, depth, width
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for stage, units in enumerate(UNITS_PER_STAGE[depth]):
            stage_width = width * 2**stage
            strides = [1 if stage == 0 else 2] + [1] * (units - 1)
            blocks = []
            for stride in strides:
                blocks.append(Bottleneck(channels, stage_width, stride))
                channels = stage_width * Bottleneck.expansion
            self.add_module(f"layer{stage + 1}", Stage(*blocks))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self._initialise()

    @property
    def stages(self) -> list[Stage]:
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

    def classify(self, x: Tensor, frames: int, pool: nn.Module | None = None) -> Tensor:
        """Logits (B, T', K) of final features (B * T, C, H, W).

        Maps larger than the 7x7 of training are read fully convolutionally: the 7x7 pool slides
        with stride 1 and the logits of its positions are averaged. The classifier is linear, so
        averaging before it is the same.

        Args:
            x: activations of the last stage.
            frames: T.
            pool: a pooling over time, applied to (B, C, T, H, W) before that over space.
        """
        if pool is not None:
            clips = pool(x.unflatten(0, (-1, frames)).transpose(1, 2))  # (B, C, T', H, W)
            frames = clips.shape[2]
            x = clips.transpose(1, 2).flatten(0, 1)
        window = (min(POOL_WINDOW, x.shape[-2]), min(POOL_WINDOW, x.shape[-1]))
        features = F.avg_pool2d(x, window, stride=1).mean((-2, -1))  # (B * T', C)
        return self.fc(self.dropout(features)).unflatten(0, (-1, frames))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        # The layout that convolutions are fastest in, on CPU and GPU; values are unchanged.
        self.to(memory_format=torch.channels_last)


def appearance_stream(num_classes: int, depth: int, width: int, dropout: float = 0.0) -> ResNet:
    """A ResNet over RGB frames (B, 3, T, H, W)."""
    return ResNet(num_classes, 3, depth, width, dropout)


def motion_stream(
    num_classes: int, stack: int, depth: int, width: int, dropout: float = 0.0
) -> ResNet:
    """A ResNet over stacks of L = `stack` flow fields (B, 2L, T, H, W)."""
    return ResNet(num_classes, 2 * stack, depth, width, dropout)
