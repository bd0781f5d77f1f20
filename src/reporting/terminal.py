"""A document on the terminal."""

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from src.reporting.document import Document, Table

_WIDTH = 180  # characters, where the output is no terminal
_SHORT = 24  # characters of a text that is kept on one line


def show_document(document: Document, console: Console | None = None) -> None:
    """Print a document; where the output is no terminal, tables are wide."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    for section in document.sections:
        console.print(Text(section.title, style="bold"))
        if section.table is not None and section.table.rows:
            console.print(_rich(section.table))
        for line in [*section.lines, *section.code]:
            console.print(Text(line), soft_wrap=True)
        console.print()


def _rich(table: Table) -> RichTable:
    """The table without columns that are empty throughout."""
    used = [
        index for index in range(len(table.columns)) if any(row[index].text for row in table.rows)
    ]
    rich = RichTable()
    for index in used:
        column = table.columns[index]
        rich.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=column.numeric or max(len(row[index].text) for row in table.rows) <= _SHORT,
        )
    for row in table.rows:
        rich.add_row(*(Text(row[index].text) for index in used))
    return rich
