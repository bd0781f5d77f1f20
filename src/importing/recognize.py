"""Recognizing the released networks in a DagNN; whatever has no known place in one is refused."""

from dataclasses import dataclass

from src.importing.mat_file import Dag, Layer
from src.importing.walk import CONV, KNOWN, MUL, NO_PAD, SOFTMAX, SUM, Stream, Walk
from src.models.connection import STAGES
from src.models.resnet import FUSION_BLOCK
from src.models.temporal import STREAMS, TemporalPool

_FUSIONS = {SUM: "additive", MUL: "multiplicative"}


@dataclass(frozen=True)
class Architecture:
    """What a file holds."""

    streams: dict[str, Stream]  # "appearance", "motion" or both
    connection: str  # from motion to appearance: "none", "additive" or "multiplicative"
    connected: tuple[int, ...]  # the stages that have one, from 1
    filters: str  # along time: "none", "inflated" or "inserted"
    filtered: tuple[str, ...]  # the streams that have them
    pool: TemporalPool | None
    classes: int


def recognize(dag: Dag) -> Architecture:
    """The architecture of a network in which every layer and parameter has its known place.

    Raises:
        UserError: names the first layer or parameter that has not.
    """
    for layer in dag.layers:
        if layer.type not in KNOWN and not _is_loss(layer):
            raise dag.error(f"{layer} is of a type that none of them has")
    walk = Walk(dag)
    streams: dict[str, Stream] = {}
    classifiers = _classifiers(dag)
    if not classifiers:
        raise dag.error("it has no classifier, a dagnn.Conv with a bias whose output nothing reads")
    for classifier in classifiers:
        stream = walk.stream(classifier)
        name = "appearance" if stream.channels == 3 else "motion"
        if name in streams:
            raise dag.error(f"{streams[name].classifier} and {classifier} both are of {name}")
        streams[name] = stream
    _check_nothing_is_left(dag, walk.met)
    classes = [stream.classes for stream in streams.values()]
    if len(set(classes)) != 1:
        raise dag.error(f"it has classifiers of {' and '.join(map(str, classes))} classes")
    connection, connected = _connection(dag, streams)
    kind, filtered = _temporal_filters(dag, streams)
    pool = _temporal_pool(dag, streams)
    if len(streams) == 1 and (filtered or pool):
        raise dag.error("it is a single stream, but has temporal filters or pooling")
    ordered = {name: streams[name] for name in STREAMS if name in streams}
    return Architecture(ordered, connection, connected, kind, filtered, pool, classes[0])


def _is_loss(layer: Layer) -> bool:
    """Whether a layer is only there for training; a soft-max is not part of the logits."""
    return layer.type.startswith("dagnn.Loss") or layer.type == SOFTMAX


def _classifiers(dag: Dag) -> list[Layer]:
    """The convolutions with a bias whose outputs nothing but losses read."""
    return [
        layer
        for layer in dag.layers
        if (layer.type, len(layer.params)) == (CONV, 2)
        and all(_is_loss(reader) for v in layer.outputs for reader in dag.readers(v))
    ]


def _check_nothing_is_left(dag: Dag, met: set[str]) -> None:
    """Check that every layer was met, and that every parameter is one's."""
    layers = [layer for layer in dag.layers if not _is_loss(layer)]
    for layer in layers:
        if layer.name not in met:
            raise dag.error(f"{layer} has no place between the input and a classifier")
    used = {name for layer in layers for name in layer.params}
    for name in dag.params:
        if name not in used:
            raise dag.error(f"the parameter {name} belongs to no layer")


def _connection(dag: Dag, streams: dict[str, Stream]) -> tuple[str, tuple[int, ...]]:
    """Kind of the connections, and the stages that have one."""
    fused = [
        (name, stage, index, block.fusion)
        for name, stream in streams.items()
        for stage, blocks in zip(STAGES, stream.stages, strict=True)
        for index, block in enumerate(blocks)
        if block.fusion is not None
    ]
    for name, stage, index, fusion in fused:
        if (name, index) != ("appearance", FUSION_BLOCK) or "motion" not in streams:
            raise dag.error(f"{fusion.layer} does not lead into the second block of appearance")
        expected = streams["motion"].stages[stage - 1][0].output
        if fusion.signal != expected:
            raise dag.error(f"{fusion.layer} reads {fusion.signal}, not {expected} of motion")
    kinds = {_FUSIONS[fusion.layer.type] for *_, fusion in fused}
    if len(kinds) > 1:
        raise dag.error("some of its connections add and some multiply")
    if len(streams) > 1 and not kinds:
        raise dag.error("its streams are not connected")
    return kinds.pop() if kinds else "none", tuple(stage for _, stage, _, _ in fused)


def _temporal_filters(dag: Dag, streams: dict[str, Stream]) -> tuple[str, tuple[str, ...]]:
    """Kind of the temporal filters, and the streams that have them.

    ST-MulNet's may be missing at some stages: the released script looks for their places by names
    that conv3_x and conv4_x of a ResNet-152 do not have.
    """
    kind_of = {}
    for name, stream in streams.items():
        for index, block in (pair for blocks in stream.stages for pair in enumerate(blocks)):
            if index != FUSION_BLOCK and block.filter_kind != "none":
                raise dag.error(f"{block.branch[2].conv} is not in a block for temporal filters")
        kinds = {blocks[FUSION_BLOCK].filter_kind for blocks in stream.stages}
        if "inserted" in kinds:
            kinds.discard("none")
        if len(kinds) > 1 or "mixed" in kinds:
            raise dag.error(f"the temporal filters of {name} are not alike at all stages")
        kind_of[name] = kinds.pop()
    filtered = tuple(name for name in STREAMS if kind_of.get(name, "none") != "none")
    if len({kind_of[name] for name in filtered}) > 1:
        raise dag.error("its streams have temporal filters of two kinds")
    return kind_of[filtered[0]] if filtered else "none", filtered


def _temporal_pool(dag: Dag, streams: dict[str, Stream]) -> TemporalPool | None:
    """The pooling over time, which must be the same in all streams."""
    pools = {_pool(dag, stream.pool) if stream.pool else None for stream in streams.values()}
    if len(pools) != 1:
        raise dag.error("its streams are not pooled over time alike")
    return pools.pop()


def _pool(dag: Dag, layer: Layer) -> TemporalPool:
    size, stride = layer.numbers("poolSize", 2, 1), layer.numbers("stride", 2, 1)
    kind = str(layer.block.get("method", "max"))
    along_time = (size[0], stride[0], *layer.numbers("pad", 4, 0)) == (1, 1, *NO_PAD)
    integers = all(number >= 1 and number.is_integer() for number in (*size, *stride))
    if not (along_time and integers) or kind not in ("max", "avg"):
        raise dag.error(f"{layer} is no maximum or average over time without padding")
    return TemporalPool(int(size[-1]), int(stride[-1]), kind)
