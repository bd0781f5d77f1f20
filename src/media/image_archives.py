"""Numbered images in zip archives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.media.archives import Archive, Entry
from src.media.image_index import (
    NUMBERED,
    component_of,
    file_state,
    load_array,
    load_json,
    save,
    unbroken,
)
from src.media.skipped import count_skipped, report_skipped, shown
from src.utils.errors import UserError

_ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("method", "u1")])
Spans = list[tuple[str, str, int, int, int]]  # folder, prefix, first row, count, beyond a gap
Index = tuple[Spans, npt.NDArray[np.void], dict[str, int]]  # with rows of images, and the rest


class ArchiveRows:
    """Where an archive keeps its images; read once and kept in two small files.

    Worker processes share the rows: they are mapped into memory, not copied.

    Args:
        path: a .zip or the .zip.001 of one in pieces.
        cache: where to keep the index, without ending; None reads the directory each time.

    Raises:
        UserError: the archive is missing, damaged or holds no numbered images.
    """

    def __init__(self, path: Path, cache: Path | None) -> None:
        self.archive, self._cache = Archive(path), cache
        self.spans, self.rows, self.skipped = self._open()

    def _open(self) -> Index:
        if self._cache is None:
            return _index(self.archive)
        about, array = self._cache.with_suffix(".json"), self._cache.with_suffix(".npy")
        parts = [(part.name, part.stat()) for part in self.archive.parts]
        identity = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in parts]
        kept, kept_rows = load_json(about), load_array(array)
        if kept_rows is not None and kept.get("archive") == identity and _fit(kept, kept_rows):
            return kept["spans"], kept_rows, kept["skipped"]
        spans, rows, skipped = _index(self.archive)
        if save(array, rows):
            content = {"images": len(rows), "spans": spans, "skipped": skipped}
            save(about, {"archive": identity, **content})
            mapped = load_array(array)
            rows = rows if mapped is None else mapped
        return spans, rows, skipped

    def __getstate__(self) -> dict[str, object]:
        mapped = isinstance(self.rows, np.memmap)
        return self.__dict__ | ({"spans": None, "rows": None} if mapped else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if self.rows is None:
            self.spans, self.rows, self.skipped = self._open()


@dataclass(frozen=True)
class ArchiveImages:
    """Numbered images in an archive: the rows `start` to `start + count` of its index."""

    index: ArchiveRows
    component: str
    video: str
    prefix: str  # of their names in the archive
    start: int
    count: int
    beyond: int  # images after a gap or a double in the numbers, which are not counted
    first = 1  # number of the first image, which numbers alone do not make a gap

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        """The archive and the image `index`, from 0."""
        return f"{self.index.archive.path}: {self.prefix}*, image {index + 1} of {self.video}"

    def state(self) -> list[Any]:
        """What changes with the images."""
        parts = [file_state(part) for part in self.index.archive.parts]
        return [parts, self.prefix, self.start, self.count]

    def read(self, index: int) -> bytes:
        """The content of the image `index`."""
        return self.index.archive.read(Entry(*self.index.rows[self.start + index].item()))


def images_in_archive(path: Path, cache: Path | None) -> list[ArchiveImages]:
    """The images of every video in an archive; arguments and errors are those of `ArchiveRows`."""
    index = ArchiveRows(path, cache)
    report_skipped(path, "numbered images", index.skipped)
    own_name = path.name.lower().rpartition(".zip")[0]  # of an archive of one video
    return [
        ArchiveImages(index, *component_of(folder or own_name, prefix), f"{folder}/{prefix}", *span)
        for folder, prefix, *span in index.spans
    ]


def _fit(kept: dict[str, Any], rows: npt.NDArray) -> bool:
    """Whether the two files of an index belong together: one may be damaged, or another's."""
    if rows.dtype != _ROW or rows.shape != (kept.get("images"),):
        return False
    try:
        return all(type(count) is int for count in kept["skipped"].values()) and all(
            isinstance(folder + prefix, str) and 0 <= start < start + count <= len(rows) - beyond
            for folder, prefix, start, count, beyond in kept["spans"]
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _index(archive: Archive) -> Index:
    """The rows of all images, by folder, prefix and number, and which rows are of one video."""
    groups: dict[tuple[str, str], int] = {}
    blocks: list[npt.NDArray[np.int64]] = []
    block: list[Sequence[int]] = []
    others: list[str] = []
    for name, entry in archive.entries():
        folder, _, file = name.rpartition("/")
        if match := NUMBERED.fullmatch(file):
            group = groups.setdefault((folder, match["prefix"]), len(groups))
            block.append((group, int(match["number"]), *entry))
            if len(block) == 2**17:  # tuples take ten times the memory of an array
                blocks.append(np.array(block, dtype=np.int64))
                block = []
        else:
            others.append(name)
    if not groups:
        raise UserError(
            f"archive {archive.path} holds no numbered images, <video>/frame*.jpg, but "
            f"{shown(count_skipped(others)) or 'nothing'}"
        )
    blocks.append(np.array(block, dtype=np.int64).reshape(-1, 5))
    table = np.concatenate(blocks)  # (N, 5): group, number, offset, size, method
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    rows = np.empty(len(table), dtype=_ROW)
    rows["offset"], rows["size"], rows["method"] = table[:, 2:].T
    starts = np.searchsorted(table[:, 0], np.arange(len(groups) + 1)).tolist()
    spans: Spans = []
    for (folder, prefix), start, end in zip(groups, starts, starts[1:], strict=False):
        count = unbroken(table[start:end, 1])
        spans.append((folder, prefix, start, count, end - start - count))
    return spans, rows, count_skipped(others)
