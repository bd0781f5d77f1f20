"""A confusion matrix as a picture."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from src.figures.names import plain

WRITTEN = 25  # classes up to which the numbers stand in the cells


def draw_confusion_matrix(counts: Tensor, classes: Sequence[str]) -> Figure:
    """Rows are labels, columns predictions; the shade is the share of the row.

    Args:
        counts: of videos (K, K).
        classes: K names.
    """
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
