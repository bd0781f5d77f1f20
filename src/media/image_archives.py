"""Numbered JPEG images in zip archives."""

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
    save_array,
    save_json,
    unbroken,
)
from src.utils.errors import UserError

_ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("method", "u1")])
Videos = dict[
    str, dict[str, list[Any]]
]  # by component and lower-case name: name, start, count, beyond


@dataclass(frozen=True)
class ArchiveImages:
    """Numbered images in an archive: the rows `start` to `start + count` of its index."""

    archive: Archive
    rows: npt.NDArray[np.void]
    start: int
    count: int
    name: str
    beyond: int = 0  # images after a gap in the numbers, which are not counted

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        """The archive and the image `index`, from 0."""
        return f"{self.archive.path}: image {index + 1} of {self.name}"

    def state(self) -> list[Any]:
        """What changes with the images."""
        parts = [file_state(part) for part in self.archive.parts]
        return [parts, self.name, self.start, self.count]

    def read(self, index: int) -> bytes:
        """The content of the image `index`."""
        offset, size, method = self.rows[self.start + index].item()
        return self.archive.read(Entry(offset, size, method))


class ArchiveTree:
    """Images in a zip archive; its central directory is read once and kept in two small files.

    Worker processes share the index: it is mapped into memory, not copied.

    Args:
        path: a .zip or the .zip.001 of one in pieces.
        cache: where to keep the index, without ending; None reads the directory each time.

    Raises:
        UserError: the archive is missing, damaged, holds no numbered JPEG images, or a video twice.
    """

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        self.root, self.archive, self._cache = path, Archive(path), cache
        self._videos, self._rows = self._open()

    def _open(self) -> tuple[Videos, npt.NDArray[np.void]]:
        if self._cache is None:
            return _index(self.archive)
        about, array = self._cache.with_suffix(".json"), self._cache.with_suffix(".npy")
        parts = [(part.name, part.stat()) for part in self.archive.parts]
        identity = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in parts]
        kept = load_json(about)
        if kept.get("archive") == identity:
            rows = load_array(array)
            if rows is not None and _goes_with(rows, kept):
                return kept["videos"], rows
        videos, rows = _index(self.archive)
        if save_array(array, rows):
            save_json(about, {"archive": identity, "images": len(rows), "videos": videos})
            mapped = load_array(array)
            rows = rows if mapped is None else mapped
        return videos, rows

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | ({"_rows": None} if isinstance(self._rows, np.memmap) else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if self._rows is None:
            self._videos, self._rows = self._open()

    def videos(self, component: str) -> dict[str, int]:
        """Number of images of each video, by its name as it is written there."""
        return {name: count for name, _, count, _ in self._videos.get(component, {}).values()}

    def images(self, component: str, video: str) -> ArchiveImages | None:
        """The images of a video, whatever the case of its name; None if there are none."""
        entry = self._videos.get(component, {}).get(video.lower())
        if entry is None:
            return None
        name, start, count, beyond = entry
        return ArchiveImages(self.archive, self._rows, start, count, name, beyond)


def _goes_with(rows: npt.NDArray, kept: dict[str, Any]) -> bool:
    """Whether the two files of an index belong together: one may be damaged, or another's."""
    if rows.dtype != _ROW or rows.shape != (kept.get("images"),):
        return False
    try:
        spans = [span for found in kept["videos"].values() for _, *span in found.values()]
        return all(0 <= start < start + count <= len(rows) - more for start, count, more in spans)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _index(archive: Archive) -> tuple[Videos, npt.NDArray[np.void]]:
    """Videos by component, each with its first row and their number; and the rows."""
    groups: dict[tuple[str, str], int] = {}
    blocks: list[npt.NDArray[np.int64]] = []
    block: list[tuple[int, int, int, int, int]] = []
    for name, entry in archive.entries():
        folder, _, file = name.rpartition("/")
        match = NUMBERED.fullmatch(file)
        if match:
            group = groups.setdefault((folder, match["prefix"]), len(groups))
            block.append((group, int(match["number"]), *entry))
            if len(block) == 2**17:  # tuples take ten times the memory of an array
                blocks.append(np.array(block, dtype=np.int64))
                block = []
    if block:
        blocks.append(np.array(block, dtype=np.int64))
    if not blocks:
        raise UserError(f"archive {archive.path} holds no numbered JPEG images, <video>/frame*.jpg")
    table = np.concatenate(blocks)  # (N, 5): group, number, offset, size, method
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    rows = np.empty(len(table), dtype=_ROW)
    rows["offset"], rows["size"], rows["method"] = table[:, 2], table[:, 3], table[:, 4]
    starts = np.searchsorted(table[:, 0], np.arange(len(groups) + 1))
    videos: Videos = {}
    origin: dict[tuple[str, str], str] = {}
    for (folder, prefix), group in groups.items():
        component, video = component_of(folder, prefix)
        twin = origin.setdefault((component, video.lower()), place := f"{folder}/{prefix}")
        if twin != place:
            raise UserError(
                f"archive {archive.path} holds {component} images of video {video} twice: "
                f"{twin}* and {place}*; take one of them out of it"
            )
        start, end = int(starts[group]), int(starts[group + 1])
        count = unbroken(table[start:end, 1])
        videos.setdefault(component, {})[video.lower()] = [video, start, count, end - start - count]
    return videos, rows
