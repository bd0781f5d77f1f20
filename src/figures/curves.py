"""Losses and accuracies over the passes of a training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.figures.colours import COLOURS
from src.figures.names import plain


@dataclass(frozen=True)
class Curve:
    """Values after each pass; passes count from 1."""

    passes: Sequence[int]
    values: Sequence[float]


def draw_training(losses: Mapping[str, Curve], accuracies: Mapping[str, Curve]) -> Figure:
    """Losses on the left, clip-level accuracies in percent on the right; each curve by its name."""
    figure = Figure((10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, losses, "loss")
    _draw(right, accuracies, "top-1 of clips, in %")
    return figure


def draw_curves(curves: Mapping[str, Curve], what: str) -> Figure:
    """Curves of several runs; `what` names their values."""
    figure = Figure((8, 3.2 + 0.22 * len(curves)), layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, curves, what, legend=False)
    figure.legend(loc="outside lower left", fontsize=8)
    return figure


def _draw(axes: Axes, curves: Mapping[str, Curve], what: str, legend: bool = True) -> None:
    axes.set_prop_cycle(color=COLOURS)
    for name, curve in curves.items():
        mark = "." if len(curve.passes) < 30 else None
        axes.plot(curve.passes, curve.values, marker=mark, label=plain(name), linewidth=1.5)
    last = max((curve.passes[-1] for curve in curves.values()), default=1)
    axes.set_xlim(0.5, last + 0.5)
    axes.set_xlabel("pass")
    axes.set_ylabel(what)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if legend and curves:
        axes.legend(fontsize=8)
