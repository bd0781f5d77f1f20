"""A timeline as a picture: the probability of the classes that come up, over time."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from src.evaluation.timeline import Curves
from src.figures.colours import COLOURS
from src.figures.names import plain


def draw_timeline(times: Sequence[float], values: Curves, class_names: Sequence[str]) -> Figure:
    """The classes with the highest peaks, of probabilities (N, K) at ascending times in seconds."""
    figure = Figure((12, 4), layout="constrained")
    axes = figure.add_subplot()
    highest = np.argsort(-values.max(axis=0), kind="stable")[: len(COLOURS)].tolist()
    for place, label in enumerate(highest):
        axes.plot(
            times,
            values[:, label],
            color=COLOURS[place],
            marker="o" if len(times) == 1 else None,
            label=plain(class_names[label]),
            zorder=3 - place / len(COLOURS),  # the highest lies on top
        )
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _clock(seconds)))
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    return str(timedelta(seconds=round(seconds)))
