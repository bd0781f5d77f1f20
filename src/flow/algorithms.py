"""Optical-flow algorithms behind one call: pairs of frames in, fields in pixels out."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from src.data.sources import resize, size_at
from src.errors import UserError

if TYPE_CHECKING:  # torch is imported where it is used: who computes with OpenCV does not wait
    from torch import Tensor

Frames = npt.NDArray[np.uint8]
Fields = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FlowAlgorithm:
    """An algorithm with its parameters, ready to be called.

    Args:
        fields: from the first and the second frames of N pairs to fields (N, H, W, 2), channels
            u, v in pixels. The frames are grey (N, H, W), or RGB (N, H, W, 3) if `colour`.
        colour: whether it sees colours.
        batch: the number of pairs that are best computed together.
        tensors: the same from tensors, grey (N, H, W) or RGB (N, 3, H, W), to (N, 2, H, W), for
            algorithms that run on any device.
    """

    fields: Callable[[Frames, Frames], Fields]
    colour: bool = False
    batch: int = 1
    tensors: "Callable[[Tensor, Tensor], Tensor] | None" = None

    def prepare(self, image: Frames, short_side: int) -> Frames:
        """Give an RGB image (H, W, 3) its smaller side, and the colours that are looked at."""
        return prepare(image, short_side, self.colour)


def prepare(image: Frames, short_side: int, colour: bool) -> Frames:
    """Give an RGB image (H, W, 3) its smaller side, and take its colours away if not `colour`."""
    resized = resize(image, size_at(image.shape[:2], short_side))
    return resized if colour else np.asarray(cv2.cvtColor(resized, cv2.COLOR_RGB2GRAY))


def _one_by_one(calc: Callable[[Frames, Frames], Fields]) -> FlowAlgorithm:
    """Wrap a function of one pair of grey frames (H, W)."""
    return FlowAlgorithm(lambda first, second: np.stack([*map(calc, first, second)]))


def on_device(
    flow: "Callable[[Tensor, Tensor], Tensor]",
    device: str,
    batches: dict[str, int],
    colour: bool = False,
) -> FlowAlgorithm:
    """Wrap a function of tensors that runs on `device`.

    Args:
        flow: from uint8 frames (N, H, W), or (N, 3, H, W) if `colour`, to (N, 2, H, W) in pixels.
        device: such as cpu or cuda:1.
        batches: pairs given to it together at most, by type of device; 1 for others.
        colour: whether it sees colours.

    Raises:
        UserError: there is no such device.
    """
    import torch

    try:
        where = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"no flow on device {device}: {reason}; cpu works everywhere") from error
    batch = batches.get(where.type, 1)

    def tensor(frames: Frames) -> "Tensor":
        return torch.from_numpy(np.moveaxis(frames, -1, 1) if colour else frames).to(where)

    def in_batches(first: "Tensor", second: "Tensor") -> "Tensor":
        pairs = zip(first.split(batch), second.split(batch), strict=True)
        return torch.cat([flow(*pair) for pair in pairs])  # memory: of one batch

    def fields(first: Frames, second: Frames) -> Fields:
        computed = in_batches(tensor(first), tensor(second)).cpu().numpy()
        return np.moveaxis(computed, 1, -1)  # (N, H, W, 2)

    return FlowAlgorithm(fields, colour, batch, in_batches)


DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


def tvl1(
    tau: float = 0.25,
    lambda_: float = 0.15,
    theta: float = 0.3,
    nscales: int = 5,
    warps: int = 5,
    epsilon: float = 0.01,
    innnerIterations: int = 30,  # OpenCV's spelling
    outerIterations: int = 10,
    scaleStep: float = 0.8,
    gamma: float = 0.0,
    medianFiltering: int = 5,
) -> FlowAlgorithm:
    """TV-L1 (Zach, Pock, Bischof 2007), the papers' flow; slow.

    The parameters and their defaults are those of OpenCV's DualTVL1.
    """
    parameters = dict(locals())

    def calc(first: Frames, second: Frames) -> Fields:
        # A new one each time: after a small image OpenCV's object goes on with fewer scales.
        return cv2.optflow.DualTVL1OpticalFlow_create(**parameters).calc(first, second, None)

    return _one_by_one(calc)


def dis(preset: str = "medium", finest_scale: int | None = None) -> FlowAlgorithm:
    """Dense inverse search (Kroeger et al. 2016), hundreds of times faster than TV-L1.

    Args:
        preset: ultrafast, fast or medium.
        finest_scale: the pyramid level to stop at, 0 for full resolution; None keeps the preset's.
    """
    if preset not in DIS_PRESETS:
        raise UserError(f"DIS has no preset {preset!r}: choose from {', '.join(DIS_PRESETS)}")
    flow = cv2.DISOpticalFlow_create(DIS_PRESETS[preset])
    if finest_scale is not None:
        flow.setFinestScale(finest_scale)
    return _one_by_one(lambda first, second: flow.calc(first, second, None))


def farneback(
    pyr_scale: float = 0.5,
    levels: int = 5,
    winsize: int = 13,
    iterations: int = 10,
    poly_n: int = 5,
    poly_sigma: float = 1.1,
) -> FlowAlgorithm:
    """Polynomial expansion (Farneback 2003), with the parameters of `cv2.calcOpticalFlowFarneback`.

    The defaults are those of OpenCV's class cv2.FarnebackOpticalFlow.
    """
    arguments = (pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, 0)
    return _one_by_one(
        lambda first, second: cv2.calcOpticalFlowFarneback(first, second, None, *arguments)
    )


def tvl1_torch(
    tau: float = 0.25,
    lambda_: float = 0.15,
    theta: float = 0.3,
    nscales: int = 5,
    warps: int = 5,
    epsilon: float = 0.01,
    innnerIterations: int = 30,  # OpenCV's spelling
    outerIterations: int = 10,
    scaleStep: float = 0.8,
    gamma: float = 0.0,
    medianFiltering: int = 5,
    *,
    device: str = "cpu",
) -> FlowAlgorithm:
    """TV-L1 in PyTorch, with the parameters and the results of `tvl1`, see `src.flow.tvl1_torch`.

    Args:
        device: where it computes; made for GPUs.
    """
    parameters = {key: value for key, value in locals().items() if key != DEVICE}
    from src.flow import tvl1_torch as module

    return module.algorithm(module.Parameters(**parameters), device)


def raft(
    model: str = "large",
    weights: str | None = "DEFAULT",
    iterations: int = 12,
    *,
    device: str = "cpu",
) -> FlowAlgorithm:
    """RAFT (Teed, Deng 2020), a recurrent network, by torchvision; see `src.flow.raft`.

    Args:
        model: large or small.
        weights: torchvision's name of weights, which it downloads, or the path of a file of such
            weights; None leaves the network random, for tests.
        iterations: updates of the flow.
        device: where it computes; made for GPUs.
    """
    from src.flow import raft as module

    return module.algorithm(model, weights, iterations, device)


ALGORITHMS: dict[str, Callable[..., FlowAlgorithm]] = {
    "tvl1": tvl1,
    "dis": dis,
    "farneback": farneback,
    "tvl1_torch": tvl1_torch,
    "raft": raft,
}
IN_COLOUR = ("raft",)  # all others see grey
DEVICE = "device"  # what an algorithm takes that can run on one; not one of its parameters


def all_parameters(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters given, and the defaults of those that are not.

    Raises:
        UserError: there is no such algorithm.
    """
    if name not in ALGORITHMS:
        raise UserError(f"no flow algorithm {name!r}: choose from {', '.join(ALGORITHMS)}")
    known = inspect.signature(ALGORITHMS[name]).parameters.values()
    return {each.name: each.default for each in known if each.name != DEVICE} | parameters


def make_algorithm(name: str, parameters: dict[str, Any], device: str = "cpu") -> FlowAlgorithm:
    """Build the algorithm `name` with its own parameters, on `device` if it can run on one.

    Raises:
        UserError: there is no such algorithm, it has no such parameter, or there is no such device.
    """
    arguments = all_parameters(name, parameters)
    if DEVICE in arguments:
        raise UserError(f"flow algorithm {name} has no parameter {DEVICE}: the caller chooses it")
    if DEVICE in inspect.signature(ALGORITHMS[name]).parameters:
        arguments[DEVICE] = device
    try:
        return ALGORITHMS[name](**arguments)
    except (TypeError, cv2.error) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"flow algorithm {name} refuses {parameters}: {reason}") from error
