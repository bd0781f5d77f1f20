"""Frames and flow as numbered images of many videos, in folders or in zip archives."""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from src.media.image_archives import ArchiveImages, images_in_archive
from src.media.image_folders import FolderImages, images_in_folders
from src.media.image_index import video_name
from src.media.skipped import count_skipped, report_skipped
from src.media.sources import LIMIT, Uint8, most_pixels
from src.utils.errors import UserError

# OpenCV's default, hence the released flow's. On real flow it errs by a small fraction of a gray
# level on average, in half the bytes of a lossless file.
JPEG_QUALITY = 95
Images = ArchiveImages | FolderImages  # of one component of one video, by their numbers


class ImageIndex:
    """Images of many videos, those of a component of each; the root is for messages.

    Raises:
        UserError: a component of a video is there twice.
    """

    def __init__(self, root: Path, images: Iterable[Images]) -> None:
        self.root = root
        self._images: dict[tuple[str, str], Images] = {}  # by component and lower-case video
        for one_video in images:
            component, video = one_video.component, one_video.video
            twin = self._images.setdefault((component, video.lower()), one_video)
            if twin is not one_video:
                raise UserError(
                    f"{root} holds {component} images of video {video} twice, {twin.where(0)} and "
                    f"{one_video.where(0)}: take out one of them, or give the folder of one of them"
                )

    def videos(self, component: str) -> dict[str, int]:
        """Number of images of each video, by its name as it is written there."""
        images_of_videos = (self.images(component, video) for _, video in self._images)
        return {images.video: len(images) for images in images_of_videos if images}

    def images(self, component: str, video: str) -> Images | None:
        """The images of a video, whatever the case of its name; None if there are none.

        A folder may have the ending of the video's file.

        What could be u of a flow without v, or v without u, is RGB below a class called so.
        """
        key = video_name(video).lower()
        rgb, u, v = (self._images.get((part, key)) for part in ("rgb", "u", "v"))
        if component == "rgb":
            return rgb or (u or v if not (u and v) else None)
        return u if component == "u" else v


def is_archive(path: Path) -> bool:
    """Whether a path names a zip archive, in one file or in pieces."""
    return re.search(r"\.zip(\.\d{3})?$", path.name, re.IGNORECASE) is not None


def open_images(path: str | Path, cache_dir: str | Path | None = None) -> ImageIndex:
    """Open a folder of images, a zip archive of them, or a folder of such archives.

    Args:
        path: the folder; the .zip, or the .zip.001 of one in pieces.
        cache_dir: where the index is kept between runs; None keeps none.

    Raises:
        UserError: there is nothing, an archive is damaged, or a video is there twice, as when its
            images are divided between two archives.
    """
    root = Path(path)

    def cache(of: Path) -> Path | None:
        if cache_dir is None:
            return None
        place = str(of.resolve())
        # The name is for people; two places must not share an index.
        return Path(cache_dir) / f"{of.name[:100]}-{sha256(place.encode()).hexdigest()[:16]}.index"

    archives = archives_at(root)
    if not archives:
        return ImageIndex(root, images_in_folders(root, cache(root)))
    if archives != [root]:
        report_skipped(root, "zip archives", _beside_archives(root))
    in_archives = (images_in_archive(archive, cache(archive)) for archive in archives)
    return ImageIndex(root, chain.from_iterable(in_archives))


def archives_at(place: Path) -> list[Path]:
    """The zip archive that a path names, or those in the folder that it names."""
    if is_archive(place):
        return [place]
    return sorted(f for f in place.glob("*") if f.name.lower().endswith((".zip", ".zip.001")))


def _beside_archives(root: Path) -> dict[str, int]:
    """What is skipped in a folder of archives: files of other endings, and folders."""
    others = [entry for entry in root.iterdir() if not is_archive(entry)]
    folders = sum(not entry.name.startswith(".") for entry in others if entry.is_dir())
    files = count_skipped(entry.name for entry in others if not entry.is_dir())
    return files | ({"folders": folders} if folders else {})


class FrameImages:
    """The frames of one video as JPEG images.

    Raises:
        UserError: there are no frames of this video.
    """

    def __init__(self, index: ImageIndex, video: str) -> None:
        images = index.images("rgb", video)
        if not images:
            raise UserError(f"no frames of video {video} in {index.root}")
        _check_all_are_numbered(images)
        self._images, self.num_frames = images, len(images)

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """Read the frames `indices` (from 0, any order, repeats allowed), each (H, W, 3)."""
        return (_decode(self._images, index, cv2.IMREAD_COLOR_RGB) for index in indices)


class FlowImages:
    """The flow of one video as JPEG images, 8-bit grey, one for u and one for v.

    Raises:
        UserError: there is no flow of this video, or u and v differ in number.
    """

    def __init__(self, index: ImageIndex, video: str) -> None:
        u, v = index.images("u", video), index.images("v", video)
        if not u or not v or len(u) != len(v):
            raise UserError(
                f"flow of video {video}: {len(u or [])} u and {len(v or [])} v images in "
                f"{index.root}; make it with "
                "python -m src.extract_flow input=<folder of videos> output=<folder>"
            )
        _check_all_are_numbered(u)
        _check_all_are_numbered(v)
        self._u, self._v, self.num_fields = u, v, len(u)

    def flow(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        """Read the fields `indices` (from 0, any order, repeats allowed), quantized u, v (H, W)."""
        for index in indices:
            u = _decode(self._u, index, cv2.IMREAD_GRAYSCALE)
            v = _decode(self._v, index, cv2.IMREAD_GRAYSCALE)
            if u.shape != v.shape:
                raise UserError(
                    f"flow image {self._v.where(index)} differs in size from its u: "
                    "extract its video again"
                )
            yield u, v


def _check_all_are_numbered(images: Images) -> None:
    if images.beyond:
        raise UserError(
            f"after {images.where(images.count - 1)} a number is missing, there twice or of "
            f"another ending, and {images.beyond} more images follow: extract or download its "
            "video again"
        )


def _decode(images: Images, index: int, flags: int) -> Uint8:
    data = images.read(index)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise UserError(
            f"image {images.where(index)} is broken, or has more pixels than "
            f"{LIMIT}={most_pixels()}: extract or download its video again"
        ) from error
    if image is None:
        raise UserError(
            f"image {images.where(index)} is broken: extract or download its video again"
        )
    return image


def encode_jpeg(image: Uint8, quality: int = JPEG_QUALITY) -> bytes:
    """An image, grey (H, W) or RGB (H, W, 3), as the content of a JPEG file."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
