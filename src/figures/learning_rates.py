"""Learning rates of all stages, a panel for each."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.figures.colours import COLOURS
from src.inspection.learning_rates import StageRates

LOWEST = 1e-4  # of the highest rate, where a curve that ends at zero is cut off


def draw_learning_rates(stages: Sequence[StageRates]) -> Figure:
    """Draw the rates over the epochs of each stage, on one logarithmic scale."""
    figure = Figure(figsize=(1.0 + 2.4 * len(stages), 3.2))
    figure.set_layout_engine("constrained", wspace=0.06)
    panels = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    colours: dict[str, str] = {}
    for axes, stage in zip(panels, stages, strict=True):
        for kinds, rates in stage.rates.items():
            new = kinds not in colours
            colour = colours.setdefault(kinds, COLOURS[len(colours) % len(COLOURS)])
            label = kinds if new else None
            axes.plot(stage.progress, rates, color=colour, label=label)
        axes.set_xlim(0, stage.epochs)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_title(stage.stage, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9")
    drawn = [
        rate for stage in stages for rates in stage.rates.values() for rate in rates if rate > 0
    ]
    panels[0].set_yscale("log", nonpositive="mask")
    panels[0].set_ylim(max(min(drawn), max(drawn) * LOWEST) / 1.5, max(drawn) * 1.5)
    panels[0].set_ylabel("learning rate")
    figure.supxlabel("epochs", fontsize=10)
    figure.legend(loc="outside upper center", ncols=len(colours), frameon=False, fontsize=9)
    return figure
