"""A file of paths and classes, as spreadsheets and other frameworks write it.

    path,class,split,group      between commas, semicolons or tabs; columns in any order and case
    path,class                  or without such a first line: a path and a class on each
    path,class,split            train, test, or 1, 2, 3, ...: the split that tests it
    path 0                      PySlowFast's and mmaction2's lists: the number of a class

What could be read in two ways is an error that names the line.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from sys import intern
from typing import NamedTuple

from src.media.find_videos import is_video
from src.utils.errors import UserError

_COLUMNS = ("path", "class", "split", "group")  # the last two are optional
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", " ": "space"}
_MARKED = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


class ListedVideo(NamedTuple):
    """One video."""

    path: str  # of its file, relative to the root
    label: str  # name of its class
    group: str  # never divided between training and test
    part: str = (
        ""  # "train", "test" or the number of the split that tests it, where the file says so
    )

    @property
    def fold(self) -> int:
        """The number of the split that tests it; 0 for none."""
        return int(self.part) if self.part.isdigit() else int(self.part == "test")


def read_video_list(file: Path, key: str = "data.dataset.lists") -> list[ListedVideo]:
    """The videos of a file, in its order.

    Args:
        key: by which the file is given, for messages.

    Raises:
        UserError: the file cannot be read or names no videos, a line is wrong, or a video is there
            twice.
    """
    given = f"{key}={file}"
    lines = _lines(file, given)
    separator, columns, named = _understand(lines, given)
    places = [columns.index(name) if name in columns else None for name in _COLUMNS]
    line_of: dict[str, int] = {}
    listed = []
    for number, cells in islice(_rows(lines, separator, given), int(named), None):
        where = f"{file}, line {number}"
        if any(cells[len(columns) :]):
            rest = separator.join(cells[len(columns) - 1 :])
            raise UserError(
                f"{where}: {len(cells)} columns, not {len(columns)}: put what has a "
                f'{_SEPARATORS[separator]} in it into quotes, such as "{rest}"'
            )
        cells += [""] * (len(columns) - len(cells))
        video = _video([None if place is None else cells[place] for place in places], where)
        if line_of.setdefault(video.path, number) != number:
            raise UserError(
                f"{where}: {video.path} is in line {line_of[video.path]}, too: delete one of them"
            )
        listed.append(video)
    if not listed:
        raise UserError(f"{given} names no videos, its first line is its last")
    return listed


def _lines(file: Path, given: str) -> list[str]:
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{given} does not exist: give a CSV file") from error
    except OSError as error:
        raise UserError(f"{given} cannot be read: {error.strerror}") from error
    encoding = next((name for mark, name in _MARKED.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).splitlines(keepends=True)
    except UnicodeError as error:
        raise UserError(
            f"{given} is not in UTF-8 ({error}): save it as UTF-8, such as by "
            "iconv -f latin1 -t utf8 <file> > <new file>"
        ) from error


def _understand(lines: Sequence[str], given: str) -> tuple[str, Sequence[str], bool]:
    """What separates the columns, which they are, and whether the first line names them."""
    first = next((line for line in lines if line.strip()), "")
    for separator in _SEPARATORS:
        cells: list[str] = []
        with suppress(UserError):  # a quote that has no meaning between others
            cells = next((cells for _, cells in _rows([first], separator, given)), [])
        columns = [cell.lower() for cell in cells]
        if {"path", "class"} <= set(columns):
            return separator, columns, True
        if len(cells) == 2 and is_video(cells[0]) and (separator != " " or cells[1].isdigit()):
            return separator, ("path", "class"), False
    raise UserError(
        f"{given} names no videos: its first line is {first.strip()[:100]!r}; "
        "it names the columns, path,class and maybe split and group, or is a video and its class"
    )


def _rows(lines: Sequence[str], separator: str, given: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line that has any, and the number of the line."""
    if separator == " ":  # a path may have spaces, too
        pairs = ((number, line.rsplit(maxsplit=1)) for number, line in enumerate(lines, start=1))
        yield from ((number, cells) for number, cells in pairs if cells)
        return
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{given} cannot be read: line {reader.line_num}: {error}") from error


def _video(values: Sequence[str | None], where: str) -> ListedVideo:
    """That of a line's values, in the order of `_COLUMNS`; None for a column that is not there."""
    path, label, part, group = values
    parts = [part for part in (path or "").split("/") if part not in ("", ".")]
    if not parts or not path or path.startswith("/") or ".." in parts or "\0" in path:
        raise UserError(f"{where}: {path!r} is no path below the folder of videos")
    if "" in values:
        raise UserError(f"{where}: no {_COLUMNS[values.index('')]}")
    if part not in ("train", "test", None) and not re.fullmatch("[1-9][0-9]?", part):
        raise UserError(
            f"{where}: split is train, test or the number of the split that tests it, not {part}"
        )
    path = "/".join(parts)
    return ListedVideo(path, intern(label or ""), group or path, intern(part or ""))
