"""Accuracy of each class as bars."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from src.evaluation.analysis import ClassAccuracy
from src.figures.colours import COLOURS
from src.figures.names import plain


def draw_class_accuracies(accuracies: Mapping[str, Sequence[ClassAccuracy]]) -> Figure:
    """Bars of several ways of scoring the same videos, the classes sorted by the last of them.

    Args:
        accuracies: of each way, by its name, for the same classes.
    """
    last = list(accuracies.values())[-1]
    order = sorted(range(len(last)), key=lambda index: -last[index].percent)
    thickness = 0.8 / len(accuracies)
    height = max(2.5, len(last) * max(0.2, 0.14 * len(accuracies)) + 1)
    figure = Figure((7, height), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, ones) in enumerate(accuracies.items()):
        offset = (place - (len(accuracies) - 1) / 2) * thickness
        axes.barh(
            [row + offset for row in range(len(order))],
            [ones[index].percent for index in order],
            height=thickness,
            color=COLOURS[place % len(COLOURS)],
            label=name,
        )
    names = [f"{plain(last[index].name)} ({last[index].videos})" for index in order]
    axes.set_yticks(range(len(order)), names, fontsize=8)
    axes.set_ylim(len(order) - 0.4, -0.6)  # the best on top
    axes.set_xlim(0, 100)
    axes.set_xlabel("videos of the class that are right, in %")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if len(accuracies) > 1:
        figure.legend(loc="outside upper center", ncols=4)
    return figure
