"""Numbered JPEG images in folders."""

import os
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from src.media.find_videos import leads_back
from src.media.image_index import NUMBERED, component_of, load_json, save_json, unbroken
from src.utils.errors import UserError

_SCANNERS = 16  # folders listed at once: a network file system answers slowly, but many at a time
_RECENT = 2 * 10**9  # ns: a folder may change again without a new time of change, which is coarse


@dataclass(frozen=True)
class FolderImages:
    """Numbered images in a folder."""

    folder: str
    prefix: str
    digits: int
    suffix: str
    first: int
    count: int
    beyond: int = 0  # images after a gap in the numbers, which are not counted

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


class FolderTree:
    """Images in a folder for each video; listed in parallel, and not again while unchanged.

    Args:
        root: the folder above all.
        cache: a file to keep the listing in; a folder is listed again when it has changed.

    Raises:
        UserError: the folder does not exist, or a video lies in it twice.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        if not root.is_dir():
            raise UserError(f"folder of images {root} does not exist")
        self.root = root
        # By component and name of the video in lower case: its name, and its images.
        self._found: dict[tuple[str, str], tuple[str, FolderImages]] = {}
        known = {folder: one for folder, one in load_json(cache).items() if _lies_in(one, folder)}
        listings: dict[str, Any] = {}
        level = [""]
        with ThreadPoolExecutor(_SCANNERS) as pool:
            while level:
                found = pool.map(lambda folder: _list(root, folder, known.get(folder)), level)
                new = dict(zip(level, found, strict=True))
                listings |= new
                level = [sub for listing in new.values() for sub in listing["folders"]]
        if cache and listings != known:
            save_json(cache, listings)
        for folder, listing in listings.items():
            for prefix, about in listing["images"].items():
                self._add(folder or root.name, FolderImages(str(root / folder), prefix, *about))

    def _add(self, folder: str, images: FolderImages) -> None:
        component, video = component_of(folder, images.prefix)
        twin = self._found.setdefault((component, video.lower()), (video, images))[1]
        if twin is not images:
            raise UserError(
                f"{self.root} holds {component} images of video {video} twice, {twin.where(0)} "
                f"and {images.where(0)}: give the folder of one of them"
            )

    def videos(self, component: str) -> dict[str, int]:
        """Number of images of each video, by its name as it is written there."""
        return {
            name: len(images)
            for (kind, _), (name, images) in self._found.items()
            if kind == component
        }

    def images(self, component: str, video: str) -> FolderImages | None:
        """The images of a video, whatever the case of its name; None if there are none."""
        return self._found.get((component, video.lower()), ("", None))[1]


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _lies_in(listing: Any, folder: str) -> bool:
    """Whether a kept listing is of this folder alone: the file may be damaged, or made by hand."""
    try:
        subs = [PurePosixPath(sub).name for sub in listing["folders"]]
        return (
            listing["folders"] == [_below(folder, name) for name in subs if name != ".."]
            and isinstance(listing["changed"], int)
            and all(
                "/" not in prefix + suffix
                and type(digits) is type(first) is int
                and count > 0 <= more
                for prefix, (digits, suffix, first, count, more) in listing["images"].items()
            )
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _list(root: Path, folder: str, known: dict[str, Any] | None) -> dict[str, Any]:
    """What a folder holds: when it changed, its folders, and its images by their prefix."""
    path = root / folder
    try:
        changed = path.stat().st_mtime_ns
    except FileNotFoundError:  # gone since the folder above was listed
        return {"changed": 0, "folders": [], "images": {}}
    if known and known["changed"] == changed:
        return known
    if time.time_ns() - changed < _RECENT:
        changed = 0
    folders, numbered = [], defaultdict(list)
    with os.scandir(path) as entries:
        for entry in entries:
            match = NUMBERED.fullmatch(entry.name)
            if match:
                number = match["number"]
                suffix = entry.name[match.end("number") :]
                numbered[match["prefix"]].append((int(number), len(number), suffix))
            elif not entry.name.startswith(".") and entry.is_dir() and not leads_back(entry):
                folders.append(_below(folder, entry.name))
    images = {}
    for prefix, all_numbers in numbered.items():
        first, digits, suffix = min(all_numbers)
        count = unbroken(np.sort([number for number, _, _ in all_numbers]))
        images[prefix] = [digits, suffix, first, count, len(all_numbers) - count]
    return {"changed": changed, "folders": sorted(folders), "images": images}
