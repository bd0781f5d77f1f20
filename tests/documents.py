"""What the project's documents name: commands, overrides, links, modules."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "data" / "README.md", *sorted(ROOT.glob("docs/*.md")))

_MARKDOWN = MarkdownIt("commonmark").enable("table")
# Up to a comment, or whatever else is for the shell.
_COMMAND = re.compile(r"python -m src\.(.+?)(?=\s+(?:#|&|[|;>]+\s)|\s*$)")
_OVERRIDE = re.compile(r"([+~]{0,2}[a-z][\w./@]*)=.+|~[a-z][\w./@]*")
_VALUE = re.compile(r"\w[\w-]*")
_ONE_MORE = re.compile(r"(\s*\([^()]*\))?,?\s*(or )?")


@dataclass(frozen=True)
class Named:
    """Something that a document names.

    Args:
        where: document and line.
        text: as it stands there, but for comments and line breaks; a command without python -m src.
    """

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def commands() -> list[Named]:
    """Every command of the project, in blocks of code, shell scripts, tables and text."""
    return [
        Named(code.where, " ".join(command.split()))
        for path in DOCUMENTS
        for code in _code(path)
        for command in _COMMAND.findall(code.text)
    ]


def overrides() -> list[Named]:
    """Whatever in text and tables is written as code and consists of key=value or ~key alone.

    In tables `.key=value` and `value` continue the key before them, as the last two do in
    model.net.connection.kind=none, additive; .path=direct.
    """
    found: list[Named] = []
    for path in DOCUMENTS:
        for before, token in pairwise(_MARKDOWN.parse(path.read_text())):
            if token.type == "inline":
                found += _overrides(token, path, in_table=before.type in ("td_open", "th_open"))
    return found


def links() -> list[Named]:
    """Links and images, of the project and others."""
    return [
        Named(where, str(target))
        for path in DOCUMENTS
        for piece, where in _texts(path)
        if (target := piece.attrGet("href") or piece.attrGet("src"))
    ]


def modules() -> list[Named]:
    """Every src.<name>, with what is dotted behind it."""
    return [
        Named(_place(path, number), name)
        for path in DOCUMENTS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for name in re.findall(r"\bsrc(?:\.\w+)+", line)
    ]


def headings(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub names them."""
    titles = [
        token.content
        for before, token in pairwise(_MARKDOWN.parse(path.read_text()))
        if before.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _texts(path: Path) -> Iterator[tuple[Token, str]]:
    """The pieces of paragraphs, headings and cells, each with its place."""
    for token in _MARKDOWN.parse(path.read_text()):
        if token.type == "inline":
            yield from _pieces(token, path)


def _pieces(text: Token, path: Path) -> Iterator[tuple[Token, str]]:
    number = text.map[0] + 1 if text.map else 0
    for piece in text.children or ():
        yield piece, _place(path, number)
        number += piece.type in ("softbreak", "hardbreak")


def _place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def _code(path: Path) -> Iterator[Named]:
    for token in _MARKDOWN.parse(path.read_text()):
        if token.type in ("code_block", "fence") and token.map:
            yield from _lines(token.content, path, token.map[0] + 1 + (token.type == "fence"))
    for piece, where in _texts(path):
        if piece.type == "code_inline":
            yield Named(where, piece.content)


def _lines(block: str, path: Path, first: int) -> Iterator[Named]:
    """A block's lines, those that a backslash continues as one."""
    begun, start = "", first
    for number, line in enumerate(block.splitlines(), start=first):
        start = start if begun else number
        begun += line
        if begun.endswith("\\"):
            begun = begun[:-1]
        else:
            yield Named(_place(path, start), begun)
            begun = ""


def _overrides(token: Token, path: Path, in_table: bool) -> Iterator[Named]:
    key, between = "", ""
    for piece, where in _pieces(token, path):
        if piece.type != "code_inline":
            between += piece.content
            continue
        text = piece.content
        if in_table and key and text.startswith("."):
            text = key.rpartition(".")[0] + text
        elif in_table and key and _VALUE.fullmatch(text) and _ONE_MORE.fullmatch(between):
            text = f"{key}={text}"
        matches = [_OVERRIDE.fullmatch(word) for word in _words(text)]
        last = matches[-1] if matches else None
        key, between = (last[1] or "") if last else "", ""
        if all(matches):
            yield Named(where, text)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a lone apostrophe: no shell would take it
        return [text]
