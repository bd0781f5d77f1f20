"""Flow without files, computed on the device that trains: workers send frames, not flow.

A worker cuts the frames t - L/2 .. t + L/2 around each frame t of a clip as it cuts the clip's own;
the flow between them is then computed in the geometry of the cut, mirrored where that is, and its
vectors are brought to the length that they have in stored flow. What stored flow knows and this
does not is the image beyond the cut's border.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from src.flow.algorithm import levels, prepare
from src.flow.settings import FlowSettings
from src.media.sources import RGBSource, Size, Uint8, size_at
from src.utils.errors import UserError

FRAMES, LENGTHS = "flow_frames", "flow_lengths"  # of a sample, beside rgb and label
Batch = dict[str, Any]


class ClipTransform(Protocol):
    """How all frames of a clip are cut."""

    @property
    def size(self) -> Size:
        """Height and width of what comes out."""
        ...

    def cut(self, image: Uint8) -> Uint8:
        """ClipTransform a frame (H, W, 3)."""
        ...

    def flow_lengths(self, stored: Size) -> tuple[float, float]:
        """What v and u seen in the cut are multiplied by to be those of flow of this size."""
        ...


class FramesForFlow:
    """The frames of one video that its flow is computed from later.

    Args:
        frames: where they come from.
        settings: of the flow.

    Raises:
        UserError: the video has a single frame.
    """

    def __init__(self, frames: RGBSource, settings: FlowSettings) -> None:
        if frames.num_frames < 2:
            raise UserError("a video of a single frame has no optical flow")
        self.frames, self.num_fields = frames, frames.num_frames - 1
        self._short_side, self._color = settings.short_side, settings.color

    def read(self, frames: npt.NDArray[np.int64], stack: int, geometry: ClipTransform) -> Batch:
        """Read what the flow of a clip's frames needs.

        Returns:
            "flow_frames", uint8 (T, L + 1, *size), or (T, L + 1, *size, 3) where the algorithm
            sees colors; beyond the video's ends its first and last frames are repeated.
            "flow_lengths", float32 (2,): what u and v of the cut are multiplied by.
        """
        around = frames[:, None] + np.arange(-(stack // 2), stack // 2 + 1)[None, :]  # (T, L + 1)
        around = np.clip(around, 0, self.frames.num_frames - 1)
        wanted, places = np.unique(around, return_inverse=True)
        images = []
        for image in self.frames.rgb(wanted.tolist()):
            stored = size_at(image.shape[:2], self._short_side)
            images.append(prepare(geometry.cut(image), min(geometry.size), self._color))
        v, u = geometry.flow_lengths(stored)
        return {
            FRAMES: torch.from_numpy(np.stack(images)[places.reshape(around.shape)]),
            LENGTHS: torch.tensor([u, v], dtype=torch.float32),
        }


class FlowAfterTransfer:
    """Puts "flow" (B, 2L, T, H, W), quantized, into a batch that holds "flow_frames".

    Args:
        settings: how the flow is computed; the algorithm must run on any device.
    """

    def __init__(self, settings: FlowSettings) -> None:
        self.settings = settings
        self._algorithms: dict[str, Any] = {}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Compute the flow on the batch's device."""
        frames, lengths = batch[FRAMES], batch[LENGTHS]
        device = str(frames.device)
        if device not in self._algorithms:
            self._algorithms[device] = self.settings.make(device)
        algorithm = self._algorithms[device]
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
