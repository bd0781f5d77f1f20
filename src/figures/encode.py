"""Figures as files' content."""

import io

import matplotlib
from matplotlib.figure import Figure


def to_svg(figure: Figure) -> bytes:
    """The drawing as SVG, the same bytes for the same drawing."""
    return _saved(figure, "svg", {"Date": None})


def to_png(figure: Figure) -> bytes:
    """The picture as PNG."""
    return _saved(figure, "png", {})


def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure"}):
        figure.savefig(content, format=kind, metadata=metadata)
    return content.getvalue()
