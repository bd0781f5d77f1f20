"""What temporal filters have become, stage by stage."""

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.figure import Figure

from src.errors import UserError
from src.figures.colours import COLOURS
from src.inspection.temporal_filters import BASIS, TemporalFilter


def draw_temporal_filters(found: Sequence[TemporalFilter]) -> Figure:
    """Draw a bar for each temporal convolution, a panel for each stream.

    Shares are of the squared norm; the distance from the start stands above, where it is known.

    Raises:
        UserError: there is no temporal filter.
    """
    if not found:
        raise UserError("this network has no temporal filters: temporal_filters.kind=none")
    streams = defaultdict(list)
    for each in found:
        streams[each.stream].append(each)
    most = max(map(len, streams.values()))
    figure = Figure(figsize=(len(streams) * max(3.5, 0.62 * most + 1), 3.8), layout="constrained")
    panels = figure.subplots(1, len(streams), squeeze=False, sharey=True)[0]
    for axes, (stream, filters) in zip(panels, streams.items(), strict=True):
        heights = [0.0] * len(filters)
        for colour, name in zip(COLOURS, BASIS, strict=False):
            values = [each.shares[name] for each in filters]
            axes.bar(range(len(filters)), values, 0.75, heights, color=colour, label=name)
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
