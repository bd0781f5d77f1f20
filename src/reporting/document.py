"""What a report is made of, for all that write one: sections of a table and lines of text."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Args:
        text: to show.
        order: to sort by; None sorts by the text, and an empty text comes last.
        hover: what more there is to say, where there is room for it.
    """

    text: str = ""
    order: float | None = None
    hover: str = ""


@dataclass(frozen=True)
class Column:
    """A column's heading, what it means, and whether it holds numbers."""

    title: str
    hover: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells, one for each column."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """The content of an image file, its media type, and what stands below it."""

    content: bytes
    kind: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with a table, lines of text, or both.

    Args:
        title: the heading.
        table: None for none.
        lines: of text.
        code: lines to copy as they are.
        pictures: for a page only.
        folded: whether a page shows the heading alone until it is asked for more.
    """

    title: str
    table: Table | None = None
    lines: Sequence[str] = ()
    code: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    folded: bool = False


@dataclass(frozen=True)
class Document:
    """A title and sections; `details` are for a page only."""

    title: str
    sections: Sequence[Section] = field(default_factory=tuple)
    details: Sequence[Section] = field(default_factory=tuple)
