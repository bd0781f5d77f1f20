"""How many parameters a network has, and where."""

from collections import Counter

from torch import nn

from src.models.resnet import ResNet


def count_parameters(net: nn.Module) -> dict[tuple[str, str], int]:
    """The parameters of each stream's stem, stages and classifier.

    Returns:
        Numbers by stream ("" in a stream alone) and part: "stem", "layer1" .. "layer4", "fc".
    """
    streams = {"": net} if isinstance(net, ResNet) else dict(net.named_children())
    counts: Counter[tuple[str, str]] = Counter()
    for stream, part in streams.items():
        for name, module in part.named_children():
            place = name if name.startswith("layer") or name == "fc" else "stem"
            counts[stream, place] += sum(each.numel() for each in module.parameters())
    return dict(counts)
