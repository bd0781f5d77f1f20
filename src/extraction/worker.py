"""What a worker process of the extractor does, video by video."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from src.extraction.formats import Format
from src.extraction.products import FLOW, FRAMES, FrameSettings, Product
from src.extraction.provenance import source_of
from src.flow.algorithm import FlowAlgorithm
from src.flow.computed import OnTheFlyFlow
from src.flow.settings import FlowSettings
from src.media.images import encode_jpeg
from src.media.sources import RGBSource, Uint8, resize, size_at
from src.media.video_file import VideoFile
from src.utils.errors import UserError, first_line

_settings: Mapping[str, Any]  # how this process makes each kind of images
_components: Mapping[str, Sequence[str]]  # that each kind has
_format: type[Format]
_algorithm: FlowAlgorithm


def setup(
    number: int, products: Sequence[Product], format: type[Format], devices: Sequence[str]
) -> None:
    """Make this process worker `number`, with a device of its own."""
    global _settings, _components, _format, _algorithm
    cv2.setNumThreads(1)  # a process per core already
    _settings = {product.kind: product.settings for product in products}
    _components = {product.kind: product.components for product in products}
    _format = format
    for product in products:
        if isinstance(product.settings, FlowSettings):
            _algorithm = product.settings.make(devices[number])
            if product.settings.uses_torch:
                import torch

                torch.set_num_threads(1)


class StoredFrames:
    """Frames that are written, too, when they are read: once and in order."""

    def __init__(
        self, frames: RGBSource, settings: FrameSettings, add: Callable[[int, bytes], None]
    ) -> None:
        self.frames, self.num_frames = frames, frames.num_frames
        self._short_side, self._add = settings.short_side, add

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """Read the frames `indices` as they are in the video."""
        for index, image in zip(indices, self.frames.rgb(indices), strict=True):
            size = image.shape[:2]
            stored = resize(image, size_at(size, self._short_side or min(size)))
            self._add(index + 1, encode_jpeg(stored))
            yield image


def extract_video(video: Path, parts: Mapping[str, Path]) -> tuple[int, dict[str, str]]:
    """Write a video's images to the part of each kind, decoding it once.

    Returns:
        The number of its frames, and the reason of each kind that has failed.
    """
    try:
        return _extract(video, parts), {}
    except UserError as error:
        if len(parts) == 1:
            return 0, dict.fromkeys(parts, str(error))
    # What one kind lacks, flow of a single frame for one, the other may not need.
    alone = [extract_video(video, {kind: part}) for kind, part in parts.items()]
    failed = {kind: reason for _, reasons in alone for kind, reason in reasons.items()}
    return max(frames for frames, _ in alone), failed


def _extract(video: Path, parts: Mapping[str, Path]) -> int:
    source_file = source_of(video)
    try:
        frames: RGBSource = VideoFile(video)
        with ExitStack() as stack:
            add = {
                kind: stack.enter_context(
                    _format.part(part, _components[kind], video.stem, source_file)
                )
                for kind, part in parts.items()
            }
            if FRAMES in parts:
                frames = StoredFrames(frames, _settings[FRAMES], partial(add[FRAMES], "rgb"))
            if FLOW in parts:
                flow = OnTheFlyFlow(frames, _settings[FLOW], _algorithm)
                for number, field in enumerate(flow.flow(range(flow.num_fields)), start=1):
                    for component, image in zip("uv", field, strict=True):
                        add[FLOW](component, number, encode_jpeg(image))
            else:
                deque(frames.rgb(range(frames.num_frames)), maxlen=0)
        return frames.num_frames
    except (RuntimeError, MemoryError) as error:  # of a network on a GPU, too
        kinds, reason = " and ".join(parts), first_line(error)
        raise UserError(f"video {video} has no {kinds}: {reason}") from error
