"""Charts out of plain names and numbers; each function gives a matplotlib Figure."""

import io
from collections.abc import Mapping, Sequence
from datetime import timedelta

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from torch import Tensor

from src.utils.errors import visible

# Distinguished by color-blind readers (Okabe & Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
WRITTEN = 25  # classes up to which the numbers stand in the cells of a confusion matrix
Curve = Mapping[int, float]  # values by the epoch after which they were measured, from 1


def to_svg(figure: Figure) -> bytes:
    """The drawing as SVG, the same bytes for the same drawing."""
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def plain(name: str) -> str:
    """A name as a drawing shows it letter by letter: matplotlib sees formulas between dollars."""
    return visible(name).replace("$", r"\$")


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
    axes.set_prop_cycle(color=COLORS)
    for name, curve in curves.items():
        mark = "." if len(curve) < 30 else None
        points = list(curve), list(curve.values())
        axes.plot(*points, marker=mark, label=plain(name), linewidth=1.5)
    last = max((epoch for curve in curves.values() for epoch in curve), default=1)
    axes.set_xlim(0.5, last + 0.5)
    axes.set_xlabel("epoch")
    axes.set_ylabel(what)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if legend and curves:
        axes.legend(fontsize=8)


def draw_class_accuracies(
    percents: Mapping[str, Sequence[float]], classes: Sequence[str], videos: Sequence[int]
) -> Figure:
    """Bars of several ways of scoring the same videos, the classes sorted by the last of them.

    `percents` has the accuracy of every class, for each way by its name.
    """
    last = list(percents.values())[-1]
    order = sorted(range(len(last)), key=lambda index: -last[index])
    thickness = 0.8 / len(percents)
    height = max(2.5, len(last) * max(0.2, 0.14 * len(percents)) + 1)
    figure = Figure((7, height), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, values) in enumerate(percents.items()):
        rows = np.arange(len(order)) + (place - (len(percents) - 1) / 2) * thickness
        widths, color = [values[index] for index in order], COLORS[place % len(COLORS)]
        axes.barh(rows, widths, height=thickness, color=color, label=name)
    names = [f"{plain(classes[index])} ({videos[index]})" for index in order]
    axes.set_yticks(range(len(order)), names, fontsize=8)
    axes.set_ylim(len(order) - 0.4, -0.6)  # the best on top
    axes.set_xlim(0, 100)
    axes.set_xlabel("videos of the class that are right, in %")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if len(percents) > 1:
        figure.legend(loc="outside upper center", ncols=4)
    return figure


def draw_class_differences(
    points: Mapping[str, float], videos: Mapping[str, int], one: str, other: str, most: int = 30
) -> Figure:
    """Which classes gain and lose from one run to another, those that gain most on top.

    `points` of top-1 come by class in descending order; of more classes than `most`, those that
    change most are drawn.
    """
    changed = sorted(points, key=lambda name: -abs(points[name]))[:most]
    shown = [name for name in points if name in changed]
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(shown)), layout="constrained")
    axes = figure.subplots()
    values = [points[name] for name in shown]
    bars = axes.barh(range(len(shown)), values, color=[COLORS[value < 0] for value in values])
    axes.bar_label(bars, [f"{value:+.1f}" for value in values], padding=3, fontsize=8)
    names = [f"{plain(name)} ({videos[name]})" for name in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.02)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_xlabel(f"points of top-1: {plain(other)} minus {plain(one)}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    among = f", {len(shown)} of {len(points)} classes" if len(shown) < len(points) else ""
    axes.set_title(f"classes (videos){among}", fontsize=9)
    return figure


def draw_confusion_matrix(counts: Tensor, classes: Sequence[str]) -> Figure:
    """Counts of videos (K, K) by label (row) and prediction; the shade is the share of the row."""
    size, names = len(classes), [plain(name) for name in classes]
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = max(4.5, 0.16 * size + 2.5) if size > WRITTEN else max(4.5, 0.42 * size + 2)
    figure = Figure((side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    small = 6 if size > WRITTEN else 9
    axes.set_xticks(range(size), names, rotation=90, fontsize=small)
    axes.set_yticks(range(size), names, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if size <= WRITTEN:
        for row, column in counts.nonzero().tolist():
            ink = "white" if shares[row, column] > 0.6 else "black"
            text = str(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the label's videos")
    return figure


def draw_timeline(
    times: Sequence[float], values: npt.NDArray[np.float32], class_names: Sequence[str]
) -> Figure:
    """The classes with the highest peaks, of probabilities (N, K) at ascending times in seconds."""
    figure = Figure((12, 4), layout="constrained")
    axes = figure.add_subplot()
    highest = np.argsort(-values.max(axis=0), kind="stable")[: len(COLORS)].tolist()
    for place, label in enumerate(highest):
        axes.plot(
            times,
            values[:, label],
            color=COLORS[place],
            marker="o" if len(times) == 1 else None,
            label=plain(class_names[label]),
            zorder=3 - place / len(COLORS),  # the highest lies on top
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
