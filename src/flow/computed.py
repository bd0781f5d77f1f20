"""Flow without files: computed from a video's frames when a clip asks for it."""

from collections.abc import Sequence

import numpy as np

from src.data.sources import RGBSource, Uint8
from src.errors import UserError
from src.flow.algorithms import FlowAlgorithm
from src.flow.quantise import quantise

CHUNK = 32  # fields computed at once


class ComputedFlow:
    """Flow computed from the frames of an RGB source when it is asked for.

    Args:
        frames: where the frames come from.
        algorithm: the algorithm, with its parameters.
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
        wanted = sorted(set(indices))
        frames: dict[int, Uint8] = {}
        fields: dict[int, Uint8] = {}
        for start in range(0, len(wanted), CHUNK):  # memory does not grow with the clip
            some = wanted[start : start + CHUNK]
            needed = sorted({i + step for i in some for step in (0, 1)})
            frames = {i: frames[i] for i in needed if i in frames}
            new = [i for i in needed if i not in frames]
            for i, image in zip(new, self.frames.rgb(new), strict=True):
                frames[i] = self.algorithm.prepare(image, self.short_side)
            first = np.stack([frames[i] for i in some])
            second = np.stack([frames[i + 1] for i in some])
            quantised = quantise(self.algorithm.fields(first, second), self.bound)
            fields |= zip(some, quantised, strict=True)
        return np.stack([fields[i] for i in indices])
