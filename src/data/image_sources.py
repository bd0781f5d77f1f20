"""Frames and flow of a video as JPEG images, in a folder or in an archive."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from src.data.images import Images, ImageTree
from src.data.sources import Size, Uint8, in_order
from src.errors import UserError


class FrameImages:
    """The frames of one video as JPEG images.

    Args:
        tree: where they lie.
        video: the video's name.
        fps: frames per second, which images do not tell.

    Raises:
        UserError: there are no frames of this video.
    """

    def __init__(self, tree: ImageTree, video: str, fps: float = 25.0) -> None:
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

    def __init__(self, tree: ImageTree, video: str) -> None:
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
        """Read the fields `indices` (from 0, any order, repeats allowed), quantised u, v (H, W)."""
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
