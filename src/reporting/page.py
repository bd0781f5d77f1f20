"""Sections of tables, lines and pictures, on a web page that needs nothing else or a terminal."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from jinja2 import Template
from rich.console import Console
from rich.table import Table
from rich.text import Text

from src.utils.console import table

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_WIDTH = 180  # characters, where the output is no terminal
_SHORT = 24  # characters of a text that a terminal keeps on one line


class Cell(NamedTuple):
    """One entry of a table: its text, what to sort by, and what more there is to say of it.

    Without `order` it is sorted by its text; an empty text comes last.
    """

    text: str = ""
    order: float | None = None
    hover: str = ""


class Column(NamedTuple):
    """A column's heading, what it means, and whether it holds numbers."""

    title: str
    hover: str = ""
    numeric: bool = False


class Picture(NamedTuple):
    """The content of an image file, its media type, and what stands below it."""

    content: bytes
    kind: str
    caption: str = ""

    @property
    def uri(self) -> str:
        """The picture itself as an address."""
        return f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[Cell]] = ()  # a cell for each column
    lines: Sequence[str] = ()  # of text
    code: Sequence[str] = ()  # lines to copy as they are
    pictures: Sequence[Picture] = ()  # for a page only
    folded: bool = False  # whether a page shows the heading alone until it is asked for more


def to_page(title: str, sections: Sequence[Section]) -> str:
    """The full page; names stand there as they are, whatever they contain."""
    source = _TEMPLATE.read_text(encoding="utf-8")
    template = Template(source, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return template.render(title=title, sections=[*map(_without_empty_columns, sections)])


def show(sections: Sequence[Section], console: Console | None = None) -> None:
    """Print sections; where the output is no terminal, tables are wide."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    for section in map(_without_empty_columns, sections):
        console.print(Text(section.title, style="bold"))
        if section.rows:
            console.print(_table(section))
        for line in [*section.lines, *section.code]:
            console.print(Text(line), soft_wrap=True)
        console.print()


def _without_empty_columns(section: Section) -> Section:
    filled = [n for n in range(len(section.columns)) if any(row[n].text for row in section.rows)]
    return replace(
        section,
        columns=[section.columns[n] for n in filled],
        rows=[[row[n] for n in filled] for row in section.rows],
    )


def _table(section: Section) -> Table:
    texts = [[cell.text for cell in row] for row in section.rows]
    longest = [max(map(len, column)) for column in zip(*texts, strict=True)]
    columns = [*zip(section.columns, longest, strict=True)]
    return table(
        [column.title for column in section.columns],
        texts,
        left={column.title for column in section.columns if not column.numeric},
        unbroken={c.title for c, length in columns if c.numeric or length <= _SHORT},
    )
