"""A document as Markdown with tables, as GitHub shows them."""

import html
import re
from collections.abc import Iterator

from src.reporting.document import Document, Section, Table
from src.text import visible


def to_markdown(document: Document) -> str:
    """The whole text; names stand there as they are, whatever they contain."""
    parts = [f"# {_plain(document.title)}"]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {_plain(section.title)}"
    if section.table is not None and section.table.rows:
        yield _table(section.table)
    if section.lines:
        yield "\n".join(f"- {_plain(line)}" for line in section.lines)
    if section.code:
        yield "\n".join(f"    {visible(line)}" for line in section.code)


def _table(table: Table) -> str:
    lines = [
        [column.title for column in table.columns],
        *([cell.text for cell in row] for row in table.rows),
    ]
    rows = [f"| {' | '.join(_plain(text) for text in line)} |" for line in lines]
    rule = "|".join("--:" if column.numeric else "---" for column in table.columns)
    return "\n".join([rows[0], f"|{rule}|", *rows[1:]])


def _plain(text: str) -> str:
    """Text without a meaning to Markdown or HTML, on one line."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_|\[\]~])", r"\\\1", escaped)
