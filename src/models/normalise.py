"""uint8 clips to the floats that a network's weights expect; runs on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(x - mean) / std on uint8 batches, per RGB channel and for all flow channels alike.

    The defaults are those of torchvision's ImageNet weights, in 0..255. Flow is centred at 128 as
    in the papers; dividing it by the mean ImageNet deviation keeps it on the scale that the papers'
    weights, made without such a division, gave it beside RGB.

    Args:
        rgb_mean, rgb_std: one number per channel, in 0..255.
        flow_mean, flow_std: one number each, in 0..255.
    """

    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(
        self,
        rgb_mean: Sequence[float] = (123.675, 116.28, 103.53),
        rgb_std: Sequence[float] = (58.395, 57.12, 57.375),
        flow_mean: float = 128.0,
        flow_std: float = 57.63,
    ) -> None:
        super().__init__()
        self.flow_mean, self.flow_std = flow_mean, flow_std
        for name, values in (("rgb_mean", rgb_mean), ("rgb_std", rgb_std)):
            shaped = torch.tensor(list(values), dtype=torch.float32).view(3, 1, 1, 1)
            # Part of the checkpoint's description, not of its weights.
            self.register_buffer(name, shaped, persistent=False)

    def rgb(self, clip: Tensor) -> Tensor:
        """Normalise uint8 frames (B, 3, T, H, W)."""
        return (clip.to(self.rgb_mean.dtype) - self.rgb_mean) / self.rgb_std

    def flow(self, clip: Tensor) -> Tensor:
        """Normalise quantised flow (B, 2L, T, H, W)."""
        return (clip.to(self.rgb_mean.dtype) - self.flow_mean) / self.flow_std

    def describe(self) -> dict[str, float | list[float]]:
        """The numbers, plain, for a checkpoint."""
        return {
            "rgb_mean": self.rgb_mean.flatten().tolist(),
            "rgb_std": self.rgb_std.flatten().tolist(),
            "flow_mean": self.flow_mean,
            "flow_std": self.flow_std,
        }
