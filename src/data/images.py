"""Numbered JPEG images of many videos, in folders or in zip archives, in the layouts in use.

    jpegs_256/<video>/frame000001.jpg             RGB of the released archives
    tvl1_flow/{u,v}/<video>/frame000001.jpg       their flow
    <video>/img_00001.jpg                         RGB of denseflow and mmaction2
    <video>/{flow_x,flow_y}_00001.jpg             their flow, in the same folder

What lies above these folders (an archive's top folder, a folder per class) does not matter.
"""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from src.data.archives import Archive, Entry
from src.errors import UserError

log = logging.getLogger(__name__)
COMPONENTS = ("rgb", "u", "v")
_NAME = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)\.jpe?g", re.IGNORECASE)
_FLOW_PREFIX = {"flow_x_": "u", "x_": "u", "flow_y_": "v", "y_": "v"}
_SCANNERS = 16  # folders listed at once: a network file system answers slowly, but many at a time
_ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("method", "u1")])
Key = tuple[str, str]  # component, name of the video in lower case


def component_of(folder: str, prefix: str) -> tuple[str, str]:
    """Component ("rgb", "u" or "v") and video of an image, from its folder and name's beginning."""
    above, _, video = folder.rpartition("/")
    if prefix in _FLOW_PREFIX:
        return _FLOW_PREFIX[prefix], video
    parent = above.rpartition("/")[2]
    return (parent if parent in ("u", "v") else "rgb"), video


class Images(Protocol):
    """The images of one component of one video, in the order of their numbers."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The JPEG file `index`, from 0."""
        ...

    def where(self, index: int) -> str:
        """Where it lies, for messages."""
        ...


class ImageTree(Protocol):
    """Images of many videos; `root` is the folder or archive."""

    root: Path

    def videos(self, component: str) -> dict[str, int]:
        """Number of images of each video, by its name as it is written there."""
        ...

    def images(self, component: str, video: str) -> Images | None:
        """The images of a video, whatever the case of its name; None if there are none."""
        ...


# --- folders -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FolderImages:
    """Numbered images in a folder."""

    folder: str
    prefix: str
    digits: int
    suffix: str
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        """The file `index`, from 0."""
        return f"{self.folder}/{self.prefix}{self.first + index:0{self.digits}d}{self.suffix}"

    def read(self, index: int) -> bytes:
        """The content of the file `index`."""
        try:
            with open(self.where(index), "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise UserError(
                f"image {self.where(index)} cannot be read ({error.strerror}): "
                "python -m src.verify_data tells what is missing"
            ) from error


@dataclass
class FolderTree:
    """Images in a folder for each video; listed in parallel, and not again while unchanged.

    Args:
        root: the folder above all.
        found: the images of each component and video.
    """

    root: Path
    found: dict[Key, tuple[str, FolderImages]] = field(default_factory=dict)

    @classmethod
    def scan(cls, root: Path, cache: Path | None = None) -> Self:
        """List all folders below `root`.

        Args:
            root: the folder above all.
            cache: a file to keep the result in; a folder is listed again when it has changed.

        Raises:
            UserError: the folder does not exist.
        """
        if not root.is_dir():
            raise UserError(f"folder of images {root} does not exist")
        known = _load_json(cache)
        listings: dict[str, Any] = {}
        level = [""]
        with ThreadPoolExecutor(_SCANNERS) as pool:
            while level:
                found = pool.map(lambda folder: _list(root, folder, known.get(folder)), level)
                new = dict(zip(level, found, strict=True))
                listings |= new
                level = [sub for listing in new.values() for sub in listing["folders"]]
        if cache and listings != known:
            _save_json(cache, listings)
        tree = cls(root)
        for folder, listing in listings.items():
            for prefix, about in listing["images"].items():
                component, video = component_of(folder or root.name, prefix)
                images = FolderImages(str(root / folder), prefix, *about)
                tree.found[component, video.lower()] = (video, images)
        return tree

    def videos(self, component: str) -> dict[str, int]:
        """Number of images of each video, by its name as it is written there."""
        return {
            name: len(images)
            for (kind, _), (name, images) in self.found.items()
            if kind == component
        }

    def images(self, component: str, video: str) -> FolderImages | None:
        """The images of a video, whatever the case of its name; None if there are none."""
        return self.found.get((component, video.lower()), ("", None))[1]


def _list(root: Path, folder: str, known: dict[str, Any] | None) -> dict[str, Any]:
    """What a folder holds: when it changed, its folders, and its images by their prefix."""
    path = root / folder
    changed = path.stat().st_mtime_ns
    if known and known["changed"] == changed:
        return known
    folders, numbers = [], defaultdict(list)
    with os.scandir(path) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match:
                number = match["number"]
                suffix = entry.name[match.end("number") :]
                numbers[match["prefix"]].append((int(number), len(number), suffix))
            elif not entry.name.startswith(".") and entry.is_dir():
                folders.append(f"{folder}/{entry.name}" if folder else entry.name)
    images = {}
    for prefix, all_numbers in numbers.items():
        first, digits, suffix = min(all_numbers)
        last = max(all_numbers)[0]
        # A gap in the numbers: what comes before it is all that can be counted on.
        count = len(all_numbers)
        if last - first + 1 != count:
            there = {number for number, _, _ in all_numbers}
            count = next(i for i in range(count + 1) if first + i not in there)
        images[prefix] = [digits, suffix, first, count]
    return {"changed": changed, "folders": sorted(folders), "images": images}


# --- archives ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArchiveImages:
    """Numbered images in an archive: the rows `start` to `start + count` of its index."""

    archive: Archive
    rows: npt.NDArray[np.void]
    start: int
    count: int
    name: str

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        """The archive and the image `index`, from 0."""
        return f"{self.archive.path}: image {index + 1} of {self.name}"

    def read(self, index: int) -> bytes:
        """The content of the image `index`."""
        offset, size, method = self.rows[self.start + index].item()
        return self.archive.read(Entry(offset, size, method))


class ArchiveTree:
    """Images in zip archives; the central directory is read once and kept in two small files.

    Worker processes share the index: it is mapped into memory, not copied.

    Args:
        path: a .zip or the .zip.001 of one in pieces.
        cache: where to keep the index, without ending; None reads the directory each time.

    Raises:
        UserError: the archive is missing, damaged, or holds no numbered JPEG images.
    """

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        self.root, self.archive = path, Archive(path)
        self._cache = cache
        parts = [(part.name, part.stat()) for part in self.archive.parts]
        identity = [[name, about.st_size, about.st_mtime_ns] for name, about in parts]
        kept = _load_json(cache and cache.with_suffix(".json"))
        if kept.get("archive") == identity:
            self._videos = kept["videos"]
            self._rows = self._load_rows()
        if kept.get("archive") != identity or self._rows is None:
            self._videos, self._rows = _index(self.archive)
            if cache and _save_array(cache.with_suffix(".npy"), self._rows):
                _save_json(
                    cache.with_suffix(".json"), {"archive": identity, "videos": self._videos}
                )
                self._rows = self._load_rows()

    def _load_rows(self) -> npt.NDArray[np.void] | None:
        assert self._cache is not None
        try:
            return np.load(self._cache.with_suffix(".npy"), mmap_mode="r")
        except (OSError, ValueError):
            return None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | ({"_rows": None} if isinstance(self._rows, np.memmap) else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if self._rows is None:
            self._rows = self._load_rows()

    def videos(self, component: str) -> dict[str, int]:
        """Number of images of each video, by its name as it is written there."""
        return {name: count for name, _, count in self._videos.get(component, {}).values()}

    def images(self, component: str, video: str) -> ArchiveImages | None:
        """The images of a video, whatever the case of its name; None if there are none."""
        entry = self._videos.get(component, {}).get(video.lower())
        if entry is None:
            return None
        name, start, count = entry
        assert self._rows is not None
        return ArchiveImages(self.archive, self._rows, start, count, name)


def _index(archive: Archive) -> tuple[dict[str, dict[str, list[Any]]], npt.NDArray[np.void]]:
    """Videos by component, each with its first row and their number; and the rows."""
    groups: dict[tuple[str, str], int] = {}
    numbers: list[npt.NDArray] = []
    block: list[tuple[int, int, int, int, int]] = []
    for name, entry in archive.entries():
        folder, _, file = name.rpartition("/")
        match = _NAME.fullmatch(file)
        if match:
            group = groups.setdefault((folder, match["prefix"]), len(groups))
            block.append((group, int(match["number"]), *entry))
            if len(block) == 2**17:  # tuples take ten times the memory of an array
                numbers.append(np.array(block, dtype=np.int64))
                block = []
    if block:
        numbers.append(np.array(block, dtype=np.int64))
    if not numbers:
        raise UserError(f"archive {archive.path} holds no numbered JPEG images, <video>/frame*.jpg")
    table = np.concatenate(numbers)  # (N, 5): group, number, offset, size, method
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    rows = np.empty(len(table), dtype=_ROW)
    rows["offset"], rows["size"], rows["method"] = table[:, 2], table[:, 3], table[:, 4]
    starts = np.searchsorted(table[:, 0], np.arange(len(groups) + 1))
    videos: dict[str, dict[str, list[Any]]] = {}
    for (folder, prefix), group in groups.items():
        start, end = int(starts[group]), int(starts[group + 1])
        there = table[start:end, 1]
        gaps = np.flatnonzero(np.diff(there) != 1)
        count = int(gaps[0]) + 1 if len(gaps) else end - start
        component, video = component_of(folder, prefix)
        videos.setdefault(component, {})[video.lower()] = [video, start, count]
    return videos, rows


# --- either --------------------------------------------------------------------------------------


class JoinedTree:
    """Several trees as one: the shards of a dataset.

    Args:
        root: for messages.
        trees: no video may be in two of them.
    """

    def __init__(self, root: Path, trees: Iterable[ImageTree]) -> None:
        self.root, self.trees = root, tuple(trees)

    def videos(self, component: str) -> dict[str, int]:
        """Number of images of each video, by its name as it is written there."""
        return {name: n for tree in self.trees for name, n in tree.videos(component).items()}

    def images(self, component: str, video: str) -> Images | None:
        """The images of a video, whatever the case of its name; None if there are none."""
        found = (tree.images(component, video) for tree in self.trees)
        return next((images for images in found if images is not None), None)


def is_archive(path: Path) -> bool:
    """Whether a path names a zip archive, whole or in pieces."""
    return re.search(r"\.zip(\.\d{3})?$", path.name, re.IGNORECASE) is not None


def open_images(path: str | Path, cache_dir: str | Path | None = None) -> ImageTree:
    """Open a folder of images, a zip archive of them, or a folder of such archives.

    Args:
        path: the folder; the .zip, or the .zip.001 of one in pieces.
        cache_dir: where the index is kept between runs; None keeps none.

    Raises:
        UserError: there is nothing, or an archive is damaged.
    """
    root = Path(path)

    def cache(of: Path) -> Path | None:
        if cache_dir is None:
            return None
        place = re.sub(r"\W+", "_", str(of.resolve())).strip("_")
        return Path(cache_dir) / f"{place[-150:]}.index"

    if is_archive(root):
        return ArchiveTree(root, cache(root))
    shards = sorted(_archives_in(root)) if root.is_dir() else []
    if shards:
        return JoinedTree(root, [ArchiveTree(shard, cache(shard)) for shard in shards])
    kept = cache(root)
    return FolderTree.scan(root, kept and kept.with_suffix(".folders.json"))


def _archives_in(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.suffix.lower() == ".zip" or file.name.lower().endswith(".zip.001"):
            yield file


def _load_json(file: Path | None) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text())) if file else {}
    except (OSError, ValueError, TypeError):
        return {}


def _save_json(file: Path, content: dict[str, Any]) -> None:
    _save(file, lambda part: part.write_text(json.dumps(content)))


def _save_array(file: Path, rows: npt.NDArray[np.void]) -> bool:
    def write(part: Path) -> None:
        with part.open("wb") as open_file:
            np.save(open_file, rows)

    return _save(file, write)


def _save(file: Path, write: Any) -> bool:
    """Write a file whole or not at all; without the right to, go on without it."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(file)
    except OSError as error:
        log.warning("index %s cannot be kept (%s): it is made anew each time", file, error.strerror)
        return False
    return True
