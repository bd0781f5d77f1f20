"""Frames and flow as numbered JPEG images of many videos, in folders or in zip archives."""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from src.media.image_archives import ArchiveTree
from src.media.image_folders import FolderTree
from src.media.sources import Size, Uint8, in_order
from src.utils.errors import UserError

# OpenCV's default, hence the released flow's. On real flow it errs by a small fraction of a gray
# level on average, in half the bytes of a lossless file.
JPEG_QUALITY = 95


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


class ImageIndex(Protocol):
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

    def __init__(self, root: Path, trees: Iterable[ImageIndex]) -> None:
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
    """Whether a path names a zip archive, in one file or in pieces."""
    return re.search(r"\.zip(\.\d{3})?$", path.name, re.IGNORECASE) is not None


def open_images(path: str | Path, cache_dir: str | Path | None = None) -> ImageIndex:
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
    return FolderTree(root, cache(root))


def _archives_in(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.suffix.lower() == ".zip" or file.name.lower().endswith(".zip.001"):
            yield file


class FrameImages:
    """The frames of one video as JPEG images.

    Args:
        tree: where they lie.
        video: the video's name.
        fps: frames per second, which images do not tell.

    Raises:
        UserError: there are no frames of this video.
    """

    def __init__(self, tree: ImageIndex, video: str, fps: float = 25.0) -> None:
        images = tree.images("rgb", video)
        if not images:
            raise UserError(f"no frames of video {video} in {tree.root}")
        self._images, self.num_frames, self.fps = images, len(images), fps

    @property
    def size(self) -> Size:
        """Height and width, of the first frame."""
        height, width, _ = _decode(self._images, 0, cv2.IMREAD_COLOR_RGB).shape
        return height, width

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """Read the frames `indices` (from 0, any order, repeats allowed), each (H, W, 3)."""
        return in_order(indices, self._ascending)

    def _ascending(self, indices: Sequence[int]) -> Iterator[Uint8]:
        return (_decode(self._images, index, cv2.IMREAD_COLOR_RGB) for index in indices)


class FlowImages:
    """The flow of one video as JPEG images, 8-bit grey, one for u and one for v.

    Args:
        tree: where they lie.
        video: the video's name.

    Raises:
        UserError: there is no flow of this video, or u and v differ in number.
    """

    def __init__(self, tree: ImageIndex, video: str) -> None:
        u, v = tree.images("u", video), tree.images("v", video)
        if not u or not v or len(u) != len(v):
            raise UserError(
                f"flow of video {video}: {len(u or [])} u and {len(v or [])} v images in "
                f"{tree.root}; make it with "
                "python -m src.extract_flow input=<folder of videos> output=<folder>"
            )
        self._u, self._v, self.num_fields = u, v, len(u)

    @property
    def size(self) -> Size:
        """Height and width, of the first field."""
        height, width = _decode(self._u, 0, cv2.IMREAD_GRAYSCALE).shape
        return height, width

    def flow(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        """Read the fields `indices` (from 0, any order, repeats allowed), quantized u, v (H, W)."""
        return in_order(indices, self._ascending)

    def _ascending(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        for index in indices:
            u = _decode(self._u, index, cv2.IMREAD_GRAYSCALE)
            v = _decode(self._v, index, cv2.IMREAD_GRAYSCALE)
            if u.shape != v.shape:
                raise UserError(
                    f"flow image {self._v.where(index)} differs in size from its u: "
                    "extract its video again"
                )
            yield u, v


def _decode(images: Images, index: int, flags: int) -> Uint8:
    data = images.read(index)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # of an absurd size
        image = None
    if image is None:
        raise UserError(
            f"image {images.where(index)} is broken: extract or download its video again"
        )
    return image


def encode_jpeg(image: Uint8, quality: int = JPEG_QUALITY) -> bytes:
    """An image, grey (H, W) or RGB (H, W, 3), as the content of a JPEG file."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
