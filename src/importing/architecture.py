"""What a released file holds: which layers of its DagNN make which part of which stream."""

from dataclasses import dataclass
from typing import NamedTuple

from src.importing.mat_file import Layer
from src.models.resnet import DEPTHS, Bottleneck

CONV, TIME, NORM, RELU = "dagnn.Conv", "dagnn.ConvTime", "dagnn.BatchNorm", "dagnn.ReLU"
POOL, POOL_TIME, DROPOUT = "dagnn.Pooling", "dagnn.PoolTime", "dagnn.DropOut"
SUM, MUL, SOFTMAX = "dagnn.Sum", "dagnn.Mul", "dagnn.SoftMax"
DEPTH_OF = {blocks: depth for depth, (kind, blocks) in DEPTHS.items() if kind is Bottleneck}


class ConvNorm(NamedTuple):
    """A convolution and the batch norm after it."""

    conv: Layer
    norm: Layer


@dataclass(frozen=True)
class CrossStreamInput:
    """Where a residual branch reads more than its own stream: x_a + f(x_m) or x_a * f(x_m).

    Args:
        layer: the sum or product.
        signal: f(x_m), a variable of the other stream.
    """

    layer: Layer
    signal: str


@dataclass(frozen=True)
class BottleneckLayers:
    """A bottleneck block.

    Args:
        branch: its 1x1, 3x3 and 1x1 convolutions.
        shortcut: the projection, None for an identity.
        temporal: a filter over time after the ReLU of the 3x3 convolution (ST-MulNet), or None.
        fusion: what its branch reads if that is not what its shortcut reads, or None.
        output: the variable after the last ReLU.
    """

    branch: tuple[ConvNorm, ConvNorm, ConvNorm]
    shortcut: ConvNorm | None
    temporal: Layer | None
    fusion: CrossStreamInput | None
    output: str

    @property
    def filter_kind(self) -> str:
        """How it looks along time: "none", "inflated" or "inserted"; "mixed" is none of them."""
        first, middle, last = (part.conv.type == TIME for part in self.branch)
        if middle or first != last or (first and self.temporal):
            return "mixed"
        return "inflated" if first else "inserted" if self.temporal else "none"


@dataclass(frozen=True)
class Stream:
    """A ResNet over frames or flow stacks.

    Args:
        stem: conv1.
        stages: the blocks of conv2_x .. conv5_x.
        pool: the pooling over time before the spatial one, or None.
        classifier: the 1x1 convolution that makes logits.
        channels: of the input.
        width: channels of conv1.
        classes: K.
    """

    stem: ConvNorm
    stages: tuple[tuple[BottleneckLayers, ...], ...]
    pool: Layer | None
    classifier: Layer
    channels: int
    width: int
    classes: int

    @property
    def depth(self) -> int:
        """Layers of the ResNet with these blocks."""
        return DEPTH_OF[tuple(map(len, self.stages))]


class Pool(NamedTuple):
    """A pooling over time; see `src.models.temporal.TemporalPool`."""

    size: int
    stride: int
    kind: str


@dataclass(frozen=True)
class Architecture:
    """What a file holds.

    Args:
        streams: "appearance", "motion" or both.
        connection: from motion to appearance: "none", "additive" or "multiplicative".
        connected: the stages that have one, from 1.
        filters: along time: "none", "inflated" or "inserted".
        filtered: the streams that have them.
        pool: over time, or None.
    """

    streams: dict[str, Stream]
    connection: str
    connected: tuple[int, ...]
    filters: str
    filtered: tuple[str, ...]
    pool: Pool | None

    @property
    def classes(self) -> int:
        """K."""
        return next(iter(self.streams.values())).classes
