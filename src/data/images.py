"""Numbered JPEG images of many videos, in folders or in zip archives (see `image_names`)."""

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from src.data.image_archives import ArchiveTree
from src.data.image_folders import FolderTree


class Images(Protocol):
    """The images of one component of one video, in the order of their numbers."""

    @property
    def beyond(self) -> int:
        """How many images after a gap in the numbers are not counted."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """The JPEG file `index`, from 0."""
        ...

    def where(self, index: int) -> str:
        """Where it lies, for messages."""
        ...

    def state(self) -> list[Any]:
        """What changes with the images."""
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


class JoinedTree:
    """Several trees as one: the shards of a dataset; a video of two of them comes from the first.

    Args:
        root: for messages.
        trees: the shards.
    """

    def __init__(self, root: Path, trees: Iterable[ImageTree]) -> None:
        self.root, self.trees = root, tuple(trees)

    def videos(self, component: str) -> dict[str, int]:
        """Number of images of each video, by its name as it is written there."""
        backwards = reversed(self.trees)
        return {name: n for tree in backwards for name, n in tree.videos(component).items()}

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
        UserError: there is nothing, an archive is damaged, or a video is there twice.
    """
    root = Path(path)

    def cache(of: Path) -> Path | None:
        if cache_dir is None:
            return None
        place = str(of.resolve())
        # The name is for people; two places must not share an index.
        return Path(cache_dir) / f"{of.name[:100]}-{sha256(place.encode()).hexdigest()[:16]}.index"

    if is_archive(root):
        return ArchiveTree(root, cache(root))
    shards = sorted(_archives_in(root)) if root.is_dir() else []
    if shards:
        return JoinedTree(root, [ArchiveTree(shard, cache(shard)) for shard in shards])
    return FolderTree.scan(root, cache(root))


def _archives_in(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.suffix.lower() == ".zip" or file.name.lower().endswith(".zip.001"):
            yield file
