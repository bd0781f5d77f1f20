"""What has become of temporal filters: still averages over time, or differences?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from src.experiment.checkpoint import CheckpointMetadata
from src.experiment.init_from import weight_sources
from src.experiment.run_dir import StageDir
from src.models.temporal_conv import TemporalConv
from src.models.weights import net_weights, of_part, read_checkpoint
from src.plotting.charts import COLORS
from src.utils.errors import UserError

# Orthonormal: every filter of three kernel is a sum of them, and so is its squared norm.
BASIS = {
    "average": torch.tensor([1.0, 1.0, 1.0]) / 3**0.5,
    "first difference": torch.tensor([-1.0, 0.0, 1.0]) / 2**0.5,
    "second difference": torch.tensor([1.0, -2.0, 1.0]) / 6**0.5,
}


@dataclass(frozen=True)
class TemporalFilter:
    """One temporal convolution, all its filters together."""

    name: str  # in the network, e.g. "appearance.layer2.1.conv1"
    shares: dict[str, float]  # of its squared norm in each shape of `BASIS`; their sum is 1
    distance: float | None  # from where it started, |w - w0| / |w0|; None if that is not known

    @property
    def stream(self) -> str:
        """Its stream; "" in a stream alone."""
        return self.name.partition("layer")[0].rstrip(".")

    @property
    def stage(self) -> int:
        """1 to 4."""
        return int(self.name.partition("layer")[2][0])


def temporal_filters(
    net: nn.Module, start: Mapping[str, Tensor] | None = None
) -> list[TemporalFilter]:
    """Take every temporal convolution of a net apart into averages and differences over time.

    `start` has the weights it started from, in its names: 1x1 filters, or temporal ones. Inserted
    filters need none.

    Raises:
        UserError: `start` is of another network.
    """
    filters = []
    for name, conv in net.named_modules():
        if not isinstance(conv, TemporalConv):
            continue
        weight = conv.weight.detach()
        began = _began(name, conv, start or {})
        distance = None if began is None else float((weight - began).norm() / began.norm())
        filters.append(TemporalFilter(name, shares(weight), distance))
    return filters


def shares(weight: Tensor) -> dict[str, float]:
    """Shares of the squared norm of filters (Cout, Cin, 3, 1, 1) in each shape of `BASIS`.

    Filters that are all zero have none.
    """
    kernel = weight.flatten(2).double()  # (Cout, Cin, 3)
    parts = {
        name: float((kernel @ shape.to(kernel)).square().sum()) for name, shape in BASIS.items()
    }
    return {name: part / (sum(parts.values()) or 1.0) for name, part in parts.items()}


def starting_weights(ckpt_path: str) -> dict[str, Tensor]:
    """The weights that a checkpoint's stage started from, those of them that are still there.

    They are the final checkpoints of earlier stages of its run, or files; ImageNet's are skipped.

    Raises:
        UserError: the checkpoint is not one of this project.
    """
    metadata, _ = CheckpointMetadata.read(ckpt_path)
    weights: dict[str, Tensor] = {}
    for part, source in weight_sources(metadata.config).items():
        file = source and _file_of(source, Path(ckpt_path).parent, metadata)
        if file:
            own = of_part(net_weights(read_checkpoint(file)), part)
            weights |= {f"{part}.{name}" if part else name: value for name, value in own.items()}
    return weights


def _file_of(source: str, folder: Path, metadata: CheckpointMetadata) -> Path | None:
    """The checkpoint that a stage in this folder calls `source`."""
    moved = (StageDir(folder).finished() or {}).get("stage_dirs", {})
    beside = folder / moved.get(source, f"../{source}")
    paths = metadata.config["paths"]
    made = [Path(paths[key]) / source for key in ("run_dir", "streams_dir")]
    candidates = [Path(source), *(StageDir(place).final for place in (beside, *made))]
    return next((file for file in candidates if file.is_file()), None)


def _began(name: str, conv: TemporalConv, start: Mapping[str, Tensor]) -> Tensor | None:
    given = start.get(f"{name}.weight")
    if given is None and name.endswith(".temporal"):  # of an identity matrix
        return TemporalConv.inserted(conv.in_channels, conv.init).weight.detach().to(conv.weight)
    if given is None:
        return None
    given = given.to(conv.weight)
    began = conv.inflate(given) if given.ndim == 4 else given
    if began.shape != conv.weight.shape:
        raise UserError(
            f"{name}.weight is {tuple(given.shape)} in the weights given as its start, which do "
            f"not fit {tuple(conv.weight.shape)}"
        )
    return began


def draw_temporal_filters(filters: Sequence[TemporalFilter]) -> Figure:
    """Draw a bar for each temporal convolution, a panel for each stream.

    Shares are of the squared norm; the distance from the start stands above, where it is known.

    Raises:
        UserError: there is no temporal filter.
    """
    if not filters:
        raise UserError("this network has no temporal filters: temporal_filters.kind=none")
    streams = defaultdict(list)
    for each in filters:
        streams[each.stream].append(each)
    most = max(map(len, streams.values()))
    figure = Figure(figsize=(len(streams) * max(3.5, 0.62 * most + 1), 3.8), layout="constrained")
    panels = figure.subplots(1, len(streams), squeeze=False, sharey=True)[0]
    for axes, (stream, filters) in zip(panels, streams.items(), strict=True):
        heights = [0.0] * len(filters)
        for color, name in zip(COLORS, BASIS, strict=False):
            values = [each.shares[name] for each in filters]
            axes.bar(range(len(filters)), values, 0.75, heights, color=color, label=name)
            heights = [low + value for low, value in zip(heights, values, strict=True)]
        for place, each in enumerate(filters):
            if each.distance is not None:
                axes.text(place, 1.02, f"{each.distance:.2g}", ha="center", fontsize=8)
        names = [f"{each.stage}\n{each.name.rpartition('.')[2]}" for each in filters]
        axes.set_xticks(range(len(filters)), names, fontsize=8)
        axes.set_xlabel("stage and convolution", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        known = any(each.distance is not None for each in filters)
        above = "\nabove: |w - w0| / |w0|" if known else ""
        axes.set_title(f"{stream or 'the stream'}{above}", fontsize=9)
        axes.set_ylim(0, 1.1)
    panels[0].set_ylabel("share of the squared norm")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure
