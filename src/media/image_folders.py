"""Numbered images in folders."""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from src.media.find_videos import leads_back
from src.media.image_index import NUMBERED, component_of, load_json, save, unbroken
from src.media.skipped import count_skipped, report_skipped
from src.utils.errors import UserError
from src.utils.files import is_special

_SCANNERS = 16  # folders listed at once: a network file system answers slowly, but many at a time
_RECENT = 2 * 10**9  # ns: a folder may change again without a new time of change, which is coarse


@dataclass(frozen=True)
class FolderImages:
    """Numbered images in a folder."""

    component: str
    video: str
    folder: str
    prefix: str
    digits: int
    suffix: str
    first: int
    count: int
    beyond: int  # images after a gap or a double in the numbers, which are not counted

    def __len__(self) -> int:
        return self.count

    def where(self, index: int) -> str:
        """The file `index`, from 0."""
        return f"{self.folder}/{self.prefix}{self.first + index:0{self.digits}d}{self.suffix}"

    def state(self) -> list[Any]:
        """What changes with the images; a file written over in place leaves it as it was."""
        changed = os.stat(self.folder).st_mtime_ns
        return [os.path.abspath(self.where(0)), changed, self.count, self.beyond]

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


def images_in_folders(root: Path, cache: Path | None) -> Iterator[FolderImages]:
    """The images of every video; folders are listed in parallel, and not again while unchanged.

    The file `cache` keeps the listing.

    Raises:
        UserError: the folder does not exist.
    """
    if not root.exists():
        raise UserError(f"folder of images {root} does not exist")
    if not root.is_dir():
        raise UserError(f"{root} is neither a folder of images nor a .zip archive: unpack it")
    known = {folder: kept for folder, kept in load_json(cache).items() if _lies_in(kept, folder)}
    listings: dict[str, Any] = {}
    level = [""]
    with ThreadPoolExecutor(_SCANNERS) as pool:
        while level:
            listed = pool.map(lambda folder: _list(root, folder, known.get(folder)), level)
            new = dict(zip(level, listed, strict=True))
            listings |= new
            level = [sub for listing in new.values() for sub in listing["folders"]]
    if cache and listings != known:
        save(cache, listings)
    skipped = Counter[str]()
    for listing in listings.values():
        skipped.update(listing["skipped"])
    report_skipped(root, "numbered images", skipped)
    for folder, listing in listings.items():
        for prefix, about in listing["images"].items():
            of = component_of(folder or root.name, prefix)
            yield FolderImages(*of, str(root / folder), prefix, *about)


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _lies_in(listing: Any, folder: str) -> bool:
    """Whether a kept listing is of this folder alone: the file may be damaged, or made by hand."""
    try:
        subs = [PurePosixPath(sub).name for sub in listing["folders"]]
        return (
            listing["folders"] == [_below(folder, name) for name in subs if name != ".."]
            and isinstance(listing["changed"], int)
            and all(type(count) is int for count in listing["skipped"].values())
            and all(
                "/" not in prefix + suffix
                and type(digits) is type(first) is int
                and count > 0 <= beyond
                for prefix, (digits, suffix, first, count, beyond) in listing["images"].items()
            )
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _list(root: Path, folder: str, known: dict[str, Any] | None) -> dict[str, Any]:
    """What a folder holds: when it changed, its folders, its images by their prefix, the rest."""
    path = root / folder
    try:
        changed = path.stat().st_mtime_ns
    except FileNotFoundError:  # gone since the folder above was listed
        return {"changed": 0, "folders": [], "images": {}, "skipped": {}}
    if known and known["changed"] == changed:
        return known
    if time.time_ns() - changed < _RECENT:
        changed = 0
    folders, others, numbered = [], [], defaultdict(list)
    with os.scandir(path) as entries:
        for entry in entries:
            match = NUMBERED.fullmatch(entry.name)
            if match and (entry.is_file() or not is_special(entry)):
                number, suffix = match["number"], entry.name[match.end("number") :]
                numbered[match["prefix"]].append((int(number), len(number), suffix))
            elif not entry.name.startswith(".") and entry.is_dir() and not leads_back(entry):
                folders.append(_below(folder, entry.name))
            elif not entry.is_dir():
                others.append(_below(folder, entry.name))
    images = {}
    for prefix, numbers in numbered.items():
        first, digits, suffix = min(numbers)
        alike = np.sort([number for number, _, ending in numbers if ending == suffix])
        count = unbroken(alike)
        images[prefix] = [digits, suffix, first, count, len(numbers) - count]
    about = {"changed": changed, "folders": sorted(folders), "images": images}
    return {**about, "skipped": count_skipped(others)}
