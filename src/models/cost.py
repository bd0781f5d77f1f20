"""What the parts of a network hold and compute."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from src.models.resnet import ResNet
from src.models.temporal_conv import TemporalConv

Place = tuple[str, str]  # a stream, and a part of it
_PARTS = {"conv1": "stem", "bn1": "stem", "maxpool": "stem", "dropout": "fc"}  # of a ResNet


@dataclass(frozen=True)
class Cost:
    """Of one part.

    Args:
        parameters: how many.
        flops: of convolutions and matrix products; a product and a sum are 2.
        shape: of its last output, None if there is none.
    """

    parameters: int = 0
    flops: int = 0
    shape: tuple[int, ...] | None = None


def count_parameters(net: nn.Module) -> dict[Place, int]:
    """The parameters of every part of every stream that has any; see `costs` for their names."""
    streams, counts = _streams(net), Counter[Place]()
    for name, parameter in net.named_parameters():
        counts[_place(name, streams)] += parameter.numel()
    return dict(counts)


def costs(net: nn.Module, run: Callable[[], object]) -> tuple[dict[Place, Cost], dict[str, Cost]]:
    """The costs of every part of every stream, and of the temporal filters that are in them.

    Streams are the ResNets in a network, by their names; "" is the network itself, and holds what
    is in none of them. Their parts are stem, layer1 .. layer4 and fc, those of others their
    children.

    Args:
        net: on the meta device, where nothing is computed, or on another; in evaluation mode.
        run: has it take an input once, forwards.
    """
    streams = _streams(net)
    modules = {name: module for name, module in net.named_modules() if name not in ("", *streams)}
    shapes: dict[Place, tuple[int, ...]] = {}

    def look_at(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor):
                shapes[_place(name, streams)] = tuple(output.shape)

        return look

    hooks = [module.register_forward_hook(look_at(name)) for name, module in modules.items()]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    counts = counter.get_flop_counts()
    parameters = count_parameters(net)
    flops: dict[Place, int] = {}
    temporal: dict[str, Cost] = {}
    for name, module in modules.items():
        if next(module.children(), None) is not None:
            continue  # its count is that of its children, if it was called at all
        place, own = (
            _place(name, streams),
            sum(counts.get(f"{type(net).__name__}.{name}", {}).values()),
        )
        flops[place] = flops.get(place, 0) + own
        if isinstance(module, TemporalConv):
            size = sum(parameter.numel() for parameter in module.parameters())
            before = temporal.get(place[0], Cost())
            temporal[place[0]] = Cost(before.parameters + size, before.flops + own)
    found = {
        place: Cost(parameters.get(place, 0), flops.get(place, 0), shapes.get(place))
        for place in dict.fromkeys([*flops, *parameters])
    }
    return {place: cost for place, cost in found.items() if cost != Cost()}, temporal


def _streams(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, ResNet)]


def _place(name: str, streams: Sequence[str]) -> Place:
    """The stream and the part that a module or a parameter of this name belongs to."""
    stream = next((s for s in streams if s and name.startswith(f"{s}.")), "")
    part = name.removeprefix(f"{stream}." if stream else "").split(".")[0]
    return stream, _PARTS.get(part, part) if stream in streams else part
