"""Sections of tables, lines and pictures, on a web page that needs nothing else or a terminal."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
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
    return template.render(title=title, sections=sections)


def show(sections: Sequence[Section], console: Console | None = None) -> None:
    """Print sections; where the output is no terminal, tables are wide."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    for section in sections:
        console.print(Text(section.title, style="bold"))
        if section.rows:
            console.print(_table(section))
        for line in [*section.lines, *section.code]:
            console.print(Text(line), soft_wrap=True)
        console.print()


def _table(section: Section) -> Table:
    """The section's table without columns that are empty throughout."""
    columns = zip(section.columns, zip(*section.rows, strict=True), strict=True)
    texts = {column: [cell.text for cell in cells] for column, cells in columns}
    texts = {column: cells for column, cells in texts.items() if any(cells)}
    return table(
        [column.title for column in texts],
        zip(*texts.values(), strict=True),
        left={column.title for column in texts if not column.numeric},
        unbroken={c.title for c in texts if c.numeric or max(map(len, texts[c])) <= _SHORT},
    )
