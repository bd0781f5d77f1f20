"""Cross-stream residual connections: what block 1 of one stream gets from block 0 of the other.

One stage of ST-ResNet (Feichtenhofer, Pinz, Wildes 2016), as its authors released it; x_a and x_m
are the sums before the ReLU f:

    appearance:  block 0 -> x_a --f--+------------------(shortcut)----------------(+)-f-> block 2 ..
                              |                                                   |
                              +--(x_a + f(x_m))--[3x1x1]-[3x3]-[3x1x1]--(block 1)-+
                                          ^
                                          | motion to appearance, residual branch only
                                          |
    motion:      block 0 -> x_m --f-------+----------------(block 1)--------------(+)-f-> block 2 ..

The motion stream never sees appearance, but the appearance stream's loss reaches it. ST-MulNet
(CVPR 2017) multiplies: x_a * f(x_m).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from src.utils.values import check_choice, check_choices

STAGES = (1, 2, 3, 4)  # conv2_x .. conv5_x, torchvision's layer1 .. layer4
_INTO = {  # the streams that each direction changes
    "motion_to_appearance": ("appearance",),
    "appearance_to_motion": ("motion",),
    "both": ("appearance", "motion"),
}
Inputs = tuple[Tensor, Tensor]  # of a residual block: its shortcut's and its residual branch's


@dataclass(frozen=True)
class Connection:
    """How the streams meet; the defaults are ST-ResNet's, the choices the papers' ablations.

    Args:
        kind: "additive", "multiplicative" or "none".
        path: "residual": the fused signal enters the residual branch alone, the shortcut stays
            f(x); "direct": it goes through the shortcut as well.
        direction: "motion_to_appearance", "appearance_to_motion" or "both".
        stages: at which of the four stages.
        spatial: whether the signal keeps its positions. False replaces it by its spatial average:
            a control that knows how things move, but not where.
    """

    kind: str = "additive"
    path: str = "residual"
    direction: str = "motion_to_appearance"
    stages: Sequence[int] = STAGES
    spatial: bool = True

    def __post_init__(self) -> None:
        check_choice("connection.kind", self.kind, ("none", "additive", "multiplicative"))
        check_choice("connection.path", self.path, ("residual", "direct"))
        check_choice("connection.direction", self.direction, _INTO)
        check_choices("connection.stages", self.stages, STAGES)
        object.__setattr__(self, "stages", tuple(self.stages))  # lists come out of a config

    def into(self, stage: int) -> tuple[str, ...]:
        """The streams that get something from the other at this stage, 1 to 4."""
        return _INTO[self.direction] if self.kind != "none" and stage in self.stages else ()

    def __call__(self, stage: int, x_a: Tensor, x_m: Tensor) -> tuple[Inputs, Inputs]:
        """What block 1 of the appearance and of the motion stream work on.

        Args:
            stage: 1 to 4.
            x_a, x_m: outputs (B * T, C, H, W) of block 0 of both streams, before the ReLU.
        """
        a, m = F.relu(x_a), F.relu(x_m)
        into = self.into(stage)
        return (
            self._fuse(x_a, a, m) if "appearance" in into else (a, a),
            self._fuse(x_m, m, a) if "motion" in into else (m, m),
        )

    def _fuse(self, x: Tensor, activation: Tensor, signal: Tensor) -> Inputs:
        if not self.spatial:
            signal = signal.mean((-2, -1), keepdim=True)
        fused = x + signal if self.kind == "additive" else x * signal
        return (fused if self.path == "direct" else activation), fused


ADDITIVE = Connection()
