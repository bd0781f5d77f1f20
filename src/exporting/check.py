"""Whether an exported network computes what the checkpoint computes."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from src.exporting.network import Clips, ClipShape


@dataclass(frozen=True)
class Difference:
    """How far the logits of an exported network are from the checkpoint's.

    Args:
        output: the stream.
        batch, frames: of the random clips.
        absolute: the largest difference of a logit.
        relative: the same, divided by the largest absolute logit; NaN if any logit is none.
    """

    output: str
    batch: int
    frames: int
    absolute: float
    relative: float


def compare(
    original: Callable[[Clips], Clips],
    exported: Callable[[Clips], Clips],
    outputs: Sequence[str],
    shape: ClipShape,
) -> list[Difference]:
    """Compare two networks on random clips of other numbers and lengths than were traced.

    Args:
        original: gives logits (B, T', K) of each output.
        exported: should give the same.
        outputs: their names.
        shape: of the clips.
    """
    found = []
    for batch, frames in ((1, shape.least_frames), (3, shape.several_frames + 1)):
        clips = shape.random(batch, frames, seed=frames)
        with torch.inference_mode():
            expected, given = original(clips), exported(clips)
        for name, ours, theirs in zip(outputs, expected, given, strict=True):
            if ours.shape != theirs.shape:
                absolute = float("inf")
            else:
                absolute = float((ours - theirs).abs().max())
            size = max(float(ours.abs().max()), sys.float_info.min)
            found.append(Difference(name, batch, frames, absolute, absolute / size))
    return found
