"""Which classes gain and lose from one run to another."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from src.evaluation.analysis import ClassDifference
from src.figures.colours import COLOURS
from src.figures.names import plain


def draw_class_differences(
    found: Sequence[ClassDifference], one: str, other: str, most: int = 30
) -> Figure:
    """Draw the differences of classes in points, those that gain most on top.

    Args:
        found: in descending order.
        one, other: names of the two runs.
        most: how many classes; of more, those that change most are drawn.
    """
    changed = sorted(found, key=lambda each: -abs(each.points))[:most]
    shown = [each for each in found if each in changed]
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(shown)), layout="constrained")
    axes = figure.subplots()
    points = [each.points for each in shown]
    colours = [COLOURS[0] if value >= 0 else COLOURS[1] for value in points]
    bars = axes.barh(range(len(shown)), points, color=colours)
    axes.bar_label(bars, [f"{p:+.1f}" for p in points], padding=3, fontsize=8)
    axes.set_yticks(
        range(len(shown)), [f"{plain(each.name)} ({each.videos})" for each in shown], fontsize=8
    )
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.02)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_xlabel(f"points of top-1: {plain(other)} minus {plain(one)}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    left_out = f", {len(shown)} of {len(found)} classes" if len(shown) < len(found) else ""
    axes.set_title(f"classes (videos){left_out}", fontsize=9)
    return figure
