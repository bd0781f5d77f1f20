"""The optical-flow algorithms: each a dataclass of its parameters that makes a `FlowAlgorithm`.

Of each, `uses_torch` says whether it can run on any device, and `color` whether it sees colors.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar

import cv2
import numpy as np

from src.flow.algorithm import Fields, FlowAlgorithm, Frames, TVL1Parameters, on_device
from src.utils.errors import UserError

DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True)
class TVL1(TVL1Parameters):
    """TV-L1 (Zach, Pock, Bischof 2007) by OpenCV, the papers' flow; slow."""

    uses_torch: ClassVar[bool] = False

    def make(self, device: str) -> FlowAlgorithm:
        """OpenCV's, on the CPU."""

        def calc(first: Frames, second: Frames) -> Fields:
            # A new one each time: after a small image OpenCV's object continues with fewer scales.
            algorithm = cv2.optflow.DualTVL1OpticalFlow_create(**asdict(self))
            return algorithm.calc(first, second, None)

        return _one_by_one(calc)


@dataclass(frozen=True)
class TVL1Torch(TVL1Parameters):
    """TV-L1 in PyTorch, made for GPUs, with the results of `TVL1`; see `src.flow.tvl1_torch`.

    Raises:
        UserError: a value without a meaning, or gamma (changes of light), which is not supported.
    """

    uses_torch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.gamma != 0:
            reason = f"gamma={self.gamma} is not supported: set it to 0, or use algorithm tvl1"
        elif self.medianFiltering > 1 and self.medianFiltering not in (3, 5):
            reason = f"medianFiltering={self.medianFiltering}: give 3 or 5 pixels, or 1 for none"
        elif not 0 < self.scaleStep < 1:
            reason = f"scaleStep={self.scaleStep}: give a number between 0 and 1"
        elif min(self.tau, self.lambda_, self.theta) <= 0:
            reason = f"tau={self.tau}, lambda_={self.lambda_}, theta={self.theta}: all must be > 0"
        elif self.nscales < 1:
            reason = f"nscales={self.nscales}: there must be at least 1 scale"
        else:
            return
        raise UserError(f"flow algorithm tvl1_torch with {reason}")

    def make(self, device: str) -> FlowAlgorithm:
        """On any device."""
        from src.flow.tvl1_torch import BATCH_ON_GPU, tvl1_flow

        return on_device(partial(tvl1_flow, parameters=self), device, BATCH_ON_GPU)


@dataclass(frozen=True)
class DIS:
    """Dense inverse search (Kroeger et al. 2016), hundreds of times faster than TV-L1.

    Args:
        preset: ultrafast, fast or medium.
        finest_scale: the pyramid level to stop at, 0 for full resolution; None keeps the preset's.
    """

    uses_torch: ClassVar[bool] = False
    color: ClassVar[bool] = False
    preset: str = "medium"
    finest_scale: int | None = None

    def make(self, device: str) -> FlowAlgorithm:
        """OpenCV's, on the CPU."""
        if self.preset not in DIS_PRESETS:
            presets = ", ".join(DIS_PRESETS)
            raise UserError(f"DIS has no preset {self.preset!r}: choose from {presets}")
        flow = cv2.DISOpticalFlow_create(DIS_PRESETS[self.preset])
        if self.finest_scale is not None:
            flow.setFinestScale(self.finest_scale)
        return _one_by_one(lambda first, second: flow.calc(first, second, None))


@dataclass(frozen=True)
class RAFT:
    """RAFT (Teed, Deng 2020), a recurrent network of torchvision, made for GPUs.

    Args:
        model: large or small.
        weights: torchvision's name of weights, which it downloads, or the path of a file of such
            weights; None leaves the network random, for tests.
        iterations: updates of the flow.
    """

    uses_torch: ClassVar[bool] = True
    color: ClassVar[bool] = True
    model: str = "large"
    weights: str | None = "DEFAULT"
    iterations: int = 12

    def make(self, device: str) -> FlowAlgorithm:
        """The network, on any device."""
        from src.flow import raft

        return raft.algorithm(self.model, self.weights, self.iterations, device)


ALGORITHMS: dict[str, type[TVL1 | DIS | TVL1Torch | RAFT]] = {
    "tvl1": TVL1,
    "dis": DIS,
    "tvl1_torch": TVL1Torch,
    "raft": RAFT,
}


def _one_by_one(calc: Callable[[Frames, Frames], Fields]) -> FlowAlgorithm:
    """Wrap a function of one pair of gray frames (H, W)."""
    return FlowAlgorithm(lambda first, second: np.stack([*map(calc, first, second)]))
