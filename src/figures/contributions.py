"""What cross-stream connections contribute, stage by stage."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from src.figures.colours import COLOURS
from src.inspection.contributions import Contribution


def draw_contributions(found: Sequence[Contribution]) -> Figure:
    """Draw the signal of each connected stage, and the accuracy and logits without it."""
    names = [f"stage {each.stage}" for each in found]
    places = np.arange(len(found))
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    signal, accuracy, logits = figure.subplots(1, 3)
    streams = list(found[0].ratios)
    width = 0.7 / len(streams)
    for index, stream in enumerate(streams):
        shift = (index - (len(streams) - 1) / 2) * width
        values = [each.ratios[stream] for each in found]
        bars = signal.bar(
            places + shift, values, width, color=COLOURS[index], label=f"into {stream}"
        )
        signal.bar_label(bars, fmt="%.2f", fontsize=8)
    signal.set_title("size of the signal, in sizes of what it enters", fontsize=9)
    signal.legend(fontsize=8, frameon=False)
    bars = accuracy.bar(places, [each.top1_without for each in found], 0.7, color=COLOURS[0])
    accuracy.bar_label(bars, fmt="%.1f", fontsize=8, label_type="center", color="white")
    accuracy.axhline(found[0].top1, color=COLOURS[1], label=f"all on: {found[0].top1:.1f}")
    accuracy.set_ylim(0, 115)
    accuracy.set_title(f"clip-level top-1 % without it ({found[0].clips} clips)", fontsize=9)
    accuracy.legend(fontsize=8, frameon=False, loc="upper right")
    bars = logits.bar(places, [each.logit_change for each in found], 0.7, color=COLOURS[0])
    logits.bar_label(bars, fmt="%.2f", fontsize=8)
    logits.set_title("relative change of the logits without it", fontsize=9)
    for axes in (signal, accuracy, logits):
        axes.set_xticks(places, names)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (signal, logits):
        axes.margins(y=0.25)
        axes.set_ylim(bottom=0)
    return figure
