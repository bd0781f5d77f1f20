"""Flow without files: computed from a video's frames when a clip asks for it."""

from collections.abc import Sequence

import numpy as np

from src.data.sources import RGBSource, Uint8
from src.errors import UserError
from src.flow.algorithms import FlowAlgorithm, grey_at
from src.flow.quantise import quantise

CHUNK = 32  # frames decoded at once


class ComputedFlow:
    """Flow computed from the frames of an RGB source when it is asked for.

    Args:
        frames: where the frames come from.
        algorithm: a call from two grey frames (H, W) to a field (H, W, 2) in pixels.
        short_side: the frames are resized to this smaller side first.
        bound: quantisation range in pixels, see `src.flow.quantise`.
    """

    def __init__(
        self, frames: RGBSource, algorithm: FlowAlgorithm, short_side: int, bound: float
    ) -> None:
        if frames.num_frames < 2:
            raise UserError("a video of a single frame has no optical flow")
        self.frames, self.algorithm = frames, algorithm
        self.short_side, self.bound = short_side, bound
        self.num_fields = frames.num_frames - 1

    def flow(self, indices: Sequence[int]) -> Uint8:
        """Compute the fields `indices` (from 0) as quantised (N, H, W, 2), channels u, v."""
        needed = sorted({i + step for i in indices for step in (0, 1)})
        grey = {}
        for start in range(0, len(needed), CHUNK):  # large frames are not kept, only grey ones
            some = needed[start : start + CHUNK]
            for i, image in zip(some, self.frames.rgb(some), strict=True):
                grey[i] = grey_at(image, self.short_side)
        fields = {
            i: quantise(self.algorithm(grey[i], grey[i + 1]), self.bound) for i in set(indices)
        }
        return np.stack([fields[i] for i in indices])
