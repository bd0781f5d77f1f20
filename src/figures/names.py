"""Names of classes, videos and runs in drawings."""

from src.text import visible


def plain(name: str) -> str:
    """A name as a drawing shows it letter by letter: matplotlib sees formulas between dollars."""
    return visible(name).replace("$", r"\$")
