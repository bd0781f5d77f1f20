"""What an optical-flow algorithm is: pairs of frames in, fields in pixels out, stored as 8 bits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from src.media.sources import resize, size_at
from src.utils.errors import UserError, first_line

if TYPE_CHECKING:  # torch is imported where it is used: who computes with OpenCV does not wait
    from torch import Tensor

Frames = npt.NDArray[np.uint8]
Fields = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FlowAlgorithm:
    """An algorithm with its parameters, ready to be called.

    Args:
        fields: from the first and the second frames of N pairs to fields (N, H, W, 2), channels
            u, v in pixels. The frames are gray (N, H, W), or RGB (N, H, W, 3) if `color`.
        color: whether it sees colors.
        batch: the number of pairs that are best computed together.
        tensors: the same from tensors, gray (N, H, W) or RGB (N, 3, H, W), to (N, 2, H, W), for
            algorithms that run on any device.
    """

    fields: Callable[[Frames, Frames], Fields]
    color: bool = False
    batch: int = 1
    tensors: "Callable[[Tensor, Tensor], Tensor] | None" = None


@dataclass(frozen=True)
class TVL1Parameters:
    """The parameters of TV-L1, with the names and defaults of OpenCV's DualTVL1."""

    color: ClassVar[bool] = False
    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    nscales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    innnerIterations: int = 30  # OpenCV's spelling
    outerIterations: int = 10
    scaleStep: float = 0.8
    gamma: float = 0.0
    medianFiltering: int = 5


def prepare(image: Frames, short_side: int, color: bool) -> Frames:
    """Give an RGB image (H, W, 3) its smaller side, and make it gray if not `color`."""
    resized = resize(image, size_at(image.shape[:2], short_side))
    return resized if color else np.asarray(cv2.cvtColor(resized, cv2.COLOR_RGB2GRAY))


def on_device(
    flow: "Callable[[Tensor, Tensor], Tensor]",
    device: str,
    batch_on_gpu: int,
    color: bool = False,
) -> FlowAlgorithm:
    """Wrap a function of tensors that runs on `device`.

    Args:
        flow: as `FlowAlgorithm.tensors`, of uint8 frames.
        device: such as cpu or cuda:1.
        batch_on_gpu: pairs given to it together at most. A CPU is fastest when one pair's arrays
            stay in its cache.
        color: whether it sees colors.

    Raises:
        UserError: there is no such device.
    """
    import torch

    try:
        where = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise UserError(f"no flow on device {device}: {reason}; cpu works everywhere") from error
    batch = batch_on_gpu if where.type == "cuda" else 1

    def tensor(frames: Frames) -> "Tensor":
        return torch.from_numpy(np.moveaxis(frames, -1, 1) if color else frames).to(where)

    def in_batches(first: "Tensor", second: "Tensor") -> "Tensor":
        pairs = zip(first.split(batch), second.split(batch), strict=True)
        return torch.cat([flow(*pair) for pair in pairs])  # memory: of one batch

    def fields(first: Frames, second: Frames) -> Fields:
        computed = in_batches(tensor(first), tensor(second)).cpu().numpy()
        return np.moveaxis(computed, 1, -1)  # (N, H, W, 2)

    return FlowAlgorithm(fields, color, batch, in_batches)


def levels(flow: Any, bound: float) -> Any:
    """The levels of `quantize` as integers in floating point; of an array or a tensor."""
    return ((flow.clip(-bound, bound) + bound) * (255.0 / (2.0 * bound))).round()


def quantize(flow: Fields, bound: float = 20.0) -> Frames:
    """Clip flow in pixels per frame to [-bound, bound] and store it as round(255 (v+b) / 2b).

    The way the released TV-L1 flow is stored.
    """
    return levels(flow, bound).astype(np.uint8)
