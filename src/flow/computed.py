"""Flow without files: computed from a video's frames when a clip asks for it."""

from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from src.flow.algorithm import Fields, FlowAlgorithm, prepare, quantize
from src.flow.settings import FlowSettings
from src.media.sources import RGBSource, Uint8, in_order
from src.utils.errors import UserError, first_line


class OnTheFlyFlow:
    """Flow computed from the frames of an RGB source when it is asked for.

    Its `algorithm` is one that `settings` make; making it may take longer than a video.

    Raises:
        UserError: the video has a single frame.
    """

    def __init__(self, frames: RGBSource, settings: FlowSettings, algorithm: FlowAlgorithm) -> None:
        if frames.num_frames < 2:
            raise UserError("a video of a single frame has no optical flow")
        self.frames, self.num_fields = frames, frames.num_frames - 1
        self.settings, self.algorithm = settings, algorithm

    def flow(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        """Compute the fields `indices` (from 0, any order, repeats allowed), quantized u, v.

        Raises:
            UserError: there is no flow between two of the frames.
        """
        return in_order(indices, self._ascending)

    def _ascending(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        needed = sorted({i + step for i in indices for step in (0, 1)})
        images = zip(needed, self.frames.rgb(needed), strict=True)
        frames: dict[int, Uint8] = {}
        for start in range(0, len(indices), self.algorithm.batch):
            some = indices[start : start + self.algorithm.batch]
            frames = {i: frame for i, frame in frames.items() if i >= some[0]}
            while not frames or max(frames) <= some[-1]:
                i, image = next(images)
                frames[i] = prepare(image, self.settings.short_side, self.algorithm.color)
            for field in quantize(self._fields(frames, some), self.settings.bound):
                yield field[..., 0], field[..., 1]

    def _fields(self, frames: Mapping[int, Uint8], indices: Sequence[int]) -> Fields:
        pairs = [[frames[i + step] for i in indices] for step in (0, 1)]
        if len({frame.shape for some in pairs for frame in some}) > 1:
            raise UserError("a video whose frames change their shape has no optical flow there")
        try:
            return self.algorithm.fields(np.stack(pairs[0]), np.stack(pairs[1]))
        except cv2.error as error:  # of images too small for it
            reason = first_line(error)
            raise UserError(f"a video has no optical flow at this size: {reason}") from error
