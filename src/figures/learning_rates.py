"""Learning rates of all stages, one after the other."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from src.figures.colours import COLOURS
from src.inspection.learning_rates import StageRates

LOWEST = 1e-4  # of the highest rate, where a curve that ends at zero is cut off


def draw_learning_rates(stages: Sequence[StageRates]) -> Figure:
    """Draw the rates over passes, on a logarithmic scale."""
    figure = Figure(figsize=(max(6.0, 2.0 * len(stages)), 3.4), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    begin, highest, lowest = 0, 0.0, float("inf")
    for number, stage in enumerate(stages):
        for kinds, rates in stage.rates.items():
            known = kinds in colours
            colour = colours.setdefault(kinds, COLOURS[len(colours) % len(COLOURS)])
            axes.plot(
                [begin + done for done in stage.progress],
                rates,
                color=colour,
                label=None if known else kinds,
            )
            positive = [rate for rate in rates if rate > 0]
            highest, lowest = max([highest, *positive]), min([lowest, *positive])
        axes.axvspan(
            begin, begin + stage.passes, color="0.95" if number % 2 else "white", zorder=0
        )
        axes.text(
            begin + stage.passes / 2,
            1.02,
            stage.stage,
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=9,
        )
        begin += stage.passes
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(max(lowest, highest * LOWEST) / 1.5, highest * 1.5)
    axes.set_xlim(0, begin)
    axes.set_xlabel("passes over the train list, all stages")
    axes.set_ylabel("learning rate")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(colours), frameon=False, fontsize=8)
    return figure
