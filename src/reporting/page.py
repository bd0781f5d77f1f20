"""A document as one web page that needs nothing else: style and script are inside."""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from src.reporting.document import Cell, Column, Document, Picture, Section, Table

_TEMPLATE = Path(__file__).with_name("page.html")
_SHORT = 12  # characters


def to_page(document: Document) -> str:
    """The whole page; names stand there as they are, whatever they contain."""
    sections = [*document.sections, *document.details]
    body = "\n".join(line for section in sections for line in _section(section))
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(document.title), sections=body)


def _section(section: Section) -> Iterator[str]:
    begin, end = ("<details>\n<summary>", "</summary>") if section.folded else ("<h2>", "</h2>")
    yield f"<section>\n{begin}{escape(section.title)}{end}"
    if section.table is not None and section.table.rows:
        yield from _table(section.table)
    if section.lines:
        yield "<ul>"
        yield from (f"<li>{escape(line)}</li>" for line in section.lines)
        yield "</ul>"
    if section.code:
        yield f"<pre>{escape(chr(10).join(section.code))}</pre>"
    captioned = [picture for picture in section.pictures if picture.caption]
    for group in ([p for p in section.pictures if not p.caption], captioned):
        if group:
            yield '<div class="pictures">'
            yield from map(_picture, group)
            yield "</div>"
    yield "</details>\n</section>" if section.folded else "</section>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.content).decode()
    image = f'<img src="data:{picture.kind};base64,{data}" alt="{escape(picture.caption)}">'
    below = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return f"<figure>{image}{below}</figure>"


def _table(table: Table) -> Iterator[str]:
    kinds = [
        _kind(column, [row[index].text for row in table.rows])
        for index, column in enumerate(table.columns)
    ]
    yield '<div class="wide"><table>\n<thead><tr>'
    for column, kind in zip(table.columns, kinds, strict=True):
        yield (
            f'<th scope="col"{kind}{_hover(column.hover)}>'
            f'<button type="button">{escape(column.title)}</button></th>'
        )
    yield "</tr></thead>\n<tbody>"
    for row in table.rows:
        yield f"<tr>{''.join(map(_cell, row, kinds))}</tr>"
    yield "</tbody></table></div>"


def _cell(cell: Cell, kind: str) -> str:
    order = "" if cell.order is None else f' data-order="{cell.order!r}"'
    return f"<td{kind}{order}{_hover(cell.hover)}>{escape(cell.text)}</td>"


def _kind(column: Column, texts: Sequence[str]) -> str:
    """The class of a column's cells."""
    if column.numeric:
        return ' class="number"'
    return ' class="long"' if max(map(len, texts)) > _SHORT else ""


def _hover(text: str) -> str:
    return f' title="{escape(text)}"' if text else ""
