"""Following a ResNet's layers through a DagNN, from its classifier back to its input.

Each layer must be what a ResNet of He et al. has there: its type, kernel, stride and padding, and
what it reads. Names play no part, because the released scripts rename layers on the way (a dropout
can be called `prediction`, and the second block of a stage `res3b` or `res3b1`).
"""

from dataclasses import dataclass
from typing import NamedTuple

from src.importing.mat_file import Dag, Layer
from src.models.resnet import DEPTHS, POOL_WINDOW, Bottleneck

CONV, TIME, NORM, RELU = "dagnn.Conv", "dagnn.ConvTime", "dagnn.BatchNorm", "dagnn.ReLU"
POOL, POOL_TIME, DROPOUT = "dagnn.Pooling", "dagnn.PoolTime", "dagnn.DropOut"
SUM, MUL, SOFTMAX = "dagnn.Sum", "dagnn.Mul", "dagnn.SoftMax"
KNOWN = (CONV, TIME, NORM, RELU, POOL, POOL_TIME, DROPOUT, SUM, MUL, SOFTMAX)
DEPTH_OF = {blocks: depth for depth, (kind, blocks) in DEPTHS.items() if kind is Bottleneck}
NO_PAD = (0, 0, 0, 0)


class ConvNorm(NamedTuple):
    """A convolution and the batch norm after it."""

    conv: Layer
    norm: Layer


class CrossStreamInput(NamedTuple):
    """The sum or product x_a + f(x_m) or x_a * f(x_m) that a branch reads, and its f(x_m)."""

    layer: Layer
    signal: str  # a variable of the other stream


@dataclass(frozen=True)
class BottleneckLayers:
    """A bottleneck block."""

    branch: tuple[ConvNorm, ConvNorm, ConvNorm]  # its 1x1, 3x3 and 1x1 convolutions
    shortcut: ConvNorm | None  # the projection, None for an identity
    temporal: Layer | None  # a filter over time after the ReLU of the 3x3 convolution (ST-MulNet)
    fusion: CrossStreamInput | None  # what its branch reads if its shortcut reads something else
    output: str  # the variable after the last ReLU

    @property
    def filter_kind(self) -> str:
        """How it looks along time: "none", "inflated" or "inserted"; "mixed" is none of them."""
        first, middle, last = (part.conv.type == TIME for part in self.branch)
        if middle or first != last or (first and self.temporal):
            return "mixed"
        return "inflated" if first else "inserted" if self.temporal else "none"


@dataclass(frozen=True)
class Stream:
    """A ResNet over frames or flow stacks."""

    stem: ConvNorm
    stages: tuple[tuple[BottleneckLayers, ...], ...]  # the blocks of conv2_x .. conv5_x
    pool: Layer | None  # over time, before the spatial one
    classifier: Layer  # the 1x1 convolution that makes logits
    channels: int  # of the input
    width: int  # channels of conv1
    classes: int

    @property
    def depth(self) -> int:
        """Layers of the ResNet with these blocks."""
        return DEPTH_OF[tuple(map(len, self.stages))]


class Walk:
    """Follows layers back from their outputs to the inputs, and remembers which it met."""

    def __init__(self, dag: Dag) -> None:
        self.dag = dag
        self.met: set[str] = set()

    def stream(self, classifier: Layer) -> Stream:
        """The stream that ends in a classifier."""
        self.met.add(classifier.name)
        self.check_window(classifier, (1, 1))
        layer = self.maker(classifier, 0, POOL, DROPOUT)
        if layer.type == DROPOUT:
            layer = self.maker(layer, 0, POOL)
        self.check_pool(layer, "avg", POOL_WINDOW, 1, NO_PAD)
        last, over_time = self.maker(layer, 0, RELU, POOL_TIME), None
        if last.type == POOL_TIME:
            last, over_time = self.maker(last, 0, RELU), last
        stages: list[list[BottleneckLayers]] = [[]]
        for _ in self.dag.layers:  # blocks from the last to the first, at most so many
            if last.type == POOL:
                break
            block, last = self.block(last)
            stages[0].insert(0, block)
            if block.shortcut is not None:  # the first of its stage
                stages.insert(0, [])
        if stages.pop(0):
            raise self.dag.error(f"{last} leads into a block without a projection")
        self.check_pool(last, "max", 3, 2, (0, 1, 0, 1))  # as Caffe: the last window is partial
        stem = self.conv_norm(self.maker(last, 0, RELU), 0, CONV)
        self.check_window(stem.conv, (7, 7), 2, (3, 3, 3, 3))
        if stem.conv.inputs[0] in self.dag.makers:
            raise self.dag.error(f"{stem.conv} does not read the input")
        self.check_stages(stages)
        *_, channels, width = self.dag.filters(stem.conv).shape
        classes = self.dag.filters(classifier, 2).shape[3]
        blocks = tuple(map(tuple, stages))
        return Stream(stem, blocks, over_time, classifier, channels, width, classes)

    def block(self, last: Layer) -> tuple[BottleneckLayers, Layer]:
        """The block that ends in a ReLU, and the layer that makes what the block reads."""
        total = self.maker(last, 0, SUM)
        branch, shortcut = self.ends(total)
        third = self.conv_norm(total, branch, CONV, TIME)
        inner, temporal = self.maker(third.conv, 0, RELU, TIME), None
        if inner.type == TIME:
            inner, temporal = self.maker(inner, 0, RELU), inner
        second = self.conv_norm(inner, 0, CONV)
        first = self.conv_norm(self.maker(second.conv, 0, RELU), 0, CONV, TIME)
        projection = None
        carried = self.dag.makers.get(total.inputs[shortcut])
        if carried and carried.type == NORM:
            projection = self.conv_norm(total, shortcut, CONV)
        reader, index = (projection.conv, 0) if projection else (total, shortcut)
        entrance = self.maker(reader, index, RELU, POOL)
        fusion, convs = self.fusion(first.conv, entrance), (first, second, third)
        return BottleneckLayers(convs, projection, temporal, fusion, last.outputs[0]), entrance

    def ends(self, total: Layer) -> tuple[int, int]:
        """Which input of a block's sum is its residual branch, and which its shortcut."""
        branches = [self.leaves_unit(variable) for variable in total.inputs]
        if sorted(branches) != [False, True]:
            raise self.dag.error(f"{total} does not add a residual branch to a shortcut")
        return branches.index(True), branches.index(False)

    def leaves_unit(self, variable: str) -> bool:
        """Whether a variable is the end of a residual branch: the convolution before its batch norm
        reads something within the block, unlike a projection, which reads what the block reads."""
        norm = self.dag.makers.get(variable)
        conv = self.before(norm) if norm and norm.type == NORM else None
        inner = self.before(conv) if conv else None
        if inner is None or inner.type == POOL:
            return False
        sum_before = self.before(inner)
        return not (inner.type == RELU and sum_before and sum_before.type == SUM)

    def before(self, layer: Layer) -> Layer | None:
        """The layer that makes the first input of a layer."""
        return self.dag.makers.get(layer.inputs[0]) if layer.inputs else None

    def fusion(self, first: Layer, entrance: Layer) -> CrossStreamInput | None:
        """What a residual branch reads, None if that is what the block reads."""
        if first.inputs[0] in entrance.outputs:
            return None
        layer = self.maker(first, 0, SUM, MUL)
        signals = [v for v in layer.inputs if v not in entrance.inputs]
        if entrance.type != RELU or len(layer.inputs) != 2 or len(signals) != 1:
            raise self.dag.error(
                f"{layer} does not join the other stream with {entrance.inputs[0]}"
            )
        return CrossStreamInput(layer, signals[0])

    def conv_norm(self, reader: Layer, index: int, *types: str) -> ConvNorm:
        """The batch norm that makes an input of `reader`, and the convolution before it."""
        norm = self.maker(reader, index, NORM)
        self.dag.arrays(norm, 3)
        return ConvNorm(self.maker(norm, 0, *types), norm)

    def maker(self, reader: Layer, index: int, *types: str) -> Layer:
        """The layer, of one of these types, that makes an input of `reader`."""
        variable = reader.inputs[index] if index < len(reader.inputs) else "nothing"
        layer = self.dag.makers.get(variable)
        expected = " or ".join(types)
        if layer is None:
            raise self.dag.error(f"{reader} reads {variable}, which no {expected} makes")
        if layer.type not in types:
            raise self.dag.error(f"{reader} comes after {layer}, not after a {expected}")
        if layer.type == RELU and layer.numbers("leak", 1, 0) != (0,):
            raise self.dag.error(f"{layer} is leaky")
        self.met.add(layer.name)
        return layer

    def check_stages(self, stages: list[list[BottleneckLayers]]) -> None:
        """Check how many blocks there are and the geometry of each."""
        for stage, blocks in enumerate(stages):
            for index, block in enumerate(blocks):
                stride = 2 if stage and not index else 1
                first, middle, last = (part.conv for part in block.branch)
                self.check_conv(first, 1, stride)
                self.check_conv(middle, 3, 1)
                self.check_conv(last, 1, 1)
                if block.shortcut:
                    self.check_conv(block.shortcut.conv, 1, stride)
                if block.temporal:
                    self.check_conv(block.temporal, 1, 1)
        counts = tuple(map(len, stages))
        if counts not in DEPTH_OF:
            raise self.dag.error(f"its stages have {counts} blocks, as no ResNet has")

    def check_conv(self, layer: Layer, side: int, stride: int) -> None:
        """Check a block's convolution: a square, or three steps along time."""
        if layer.type == TIME:
            self.check_window(layer, (1, 3), stride, (0, 0, 1, 1))
        else:
            self.check_window(layer, (side, side), stride, (side // 2,) * 4)

    def check_pool(
        self, layer: Layer, method: str, side: int, stride: int, pad: tuple[int, ...]
    ) -> None:
        """Check a spatial pooling."""
        if layer.block.get("method", "max") != method:
            raise self.dag.error(f"{layer} pools {layer.block.get('method')}, not {method}")
        self.check_window(layer, (side, side), stride, pad)

    def check_window(
        self,
        layer: Layer,
        expected: tuple[int, int],
        stride: int = 1,
        pad: tuple[int, ...] = NO_PAD,
    ) -> None:
        """Check size, stride, padding (top, bottom, left, right) and dilation of a filter."""
        size: tuple[float, ...] = layer.numbers("poolSize", 2, 1)
        if layer.type != POOL:
            size = self.dag.filters(layer).shape[:2]
        for title, value, right in (
            ("size", size, expected),
            ("stride", layer.numbers("stride", 2, 1), (stride, stride)),
            ("pad", layer.numbers("pad", 4, 0), pad),
            ("dilate", layer.numbers("dilate", 2, 1), (1, 1)),
        ):
            if value != right:
                numbers = ", ".join(f"{number:g}" for number in value)
                raise self.dag.error(f"{layer} has {title} [{numbers}], not {list(right)}")
