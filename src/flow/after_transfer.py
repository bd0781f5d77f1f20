"""Flow without files, computed on the device that trains: workers send frames, not flow.

A worker cuts the frames t - L/2 .. t + L/2 around each frame t of a clip as it cuts the clip's own;
the flow between them is then computed in the geometry of the cut, mirrored where that is, and its
vectors are brought to the length that they have in stored flow. What stored flow knows and this
does not is the image beyond the cut's border.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from src.flow.algorithm import levels
from src.flow.settings import FlowSettings

FRAMES, LENGTHS = "flow_frames", "flow_lengths"  # of a sample, beside rgb and label
Batch = dict[str, Any]


class FlowAfterTransfer:
    """Puts "flow" (B, 2L, T, H, W), quantized, into a batch that holds "flow_frames".

    The algorithm of its settings must run on any device.
    """

    def __init__(self, settings: FlowSettings) -> None:
        self.settings = settings
        self._algorithm_on: Callable[[str], Any] = cache(settings.make)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Compute the flow on the batch's device."""
        frames, lengths = batch[FRAMES], batch[LENGTHS]
        algorithm = self._algorithm_on(str(frames.device))
        if algorithm.color:
            frames = frames.movedim(-1, 3)  # (B, T, L + 1, 3, H, W)
        first, second = frames[:, :, :-1], frames[:, :, 1:]
        flow = algorithm.tensors(first.flatten(0, 2), second.flatten(0, 2))  # (B * T * L, 2, H, W)
        flow = flow.unflatten(0, first.shape[:3])  # (B, T, L, 2, H, W)
        flow = flow * lengths[:, None, None, :, None, None]
        quantized = levels(flow, self.settings.bound).to(torch.uint8)
        quantized = quantized.permute(0, 2, 3, 1, 4, 5)  # (B, L, 2, T, H, W)
        rest = {key: value for key, value in batch.items() if key not in (FRAMES, LENGTHS)}
        return rest | {"flow": quantized.flatten(1, 2).contiguous()}  # (B, 2L, T, H, W)
