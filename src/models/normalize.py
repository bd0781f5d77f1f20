"""uint8 clips to the floats that a network's weights expect; runs on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x - mean) / std on uint8 batches, per RGB channel and for flow channels alike or each.

    The defaults are those of torchvision's ImageNet weights, in 0..255. Flow is centered at 128 as
    in the papers; dividing it by the mean ImageNet deviation keeps it on the scale that the papers'
    weights, made without such a division, gave it beside RGB.

    Args:
        rgb_mean, rgb_std: one number per channel, in 0..255.
        flow_mean, flow_std: one number for all 2L channels or one per channel, in 0..255.
    """

    rgb_mean: Tensor
    rgb_std: Tensor
    flow_mean: Tensor | float
    flow_std: Tensor | float

    def __init__(
        self,
        rgb_mean: Sequence[float] = (123.675, 116.28, 103.53),
        rgb_std: Sequence[float] = (58.395, 57.12, 57.375),
        flow_mean: float | Sequence[float] = 128.0,
        flow_std: float | Sequence[float] = 57.63,
    ) -> None:
        super().__init__()
        for name, values in (("rgb_mean", rgb_mean), ("rgb_std", rgb_std)):
            self._keep(name, values, 3)
        for name, given in (("flow_mean", flow_mean), ("flow_std", flow_std)):
            if isinstance(given, Sequence):
                self._keep(name, given, len(given))
            else:
                setattr(self, name, given)

    def _keep(self, name: str, values: Sequence[float], channels: int) -> None:
        shaped = torch.tensor(list(values), dtype=torch.float32).view(channels, 1, 1, 1)
        # Part of the checkpoint's metadata, not of its weights.
        self.register_buffer(name, shaped, persistent=False)

    def rgb(self, clip: Tensor) -> Tensor:
        """Normalize uint8 frames (B, 3, T, H, W)."""
        return self._normalized(clip, self.rgb_mean, self.rgb_std)

    def flow(self, clip: Tensor) -> Tensor:
        """Normalize quantized flow (B, 2L, T, H, W)."""
        return self._normalized(clip, self.flow_mean, self.flow_std)

    def _normalized(self, clip: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
        # The layout in which (B, C, T, H, W) to (B * T, C, H, W), channels last, is a view.
        floats = clip.to(self.rgb_mean.dtype, memory_format=torch.channels_last_3d)
        return (floats - mean).div_(std)

    def restore(self, modality: str, clip: Tensor) -> Tensor:
        """The levels 0..255, uint8, that a normalized clip of "rgb" or "flow" was made from."""
        mean, std = (getattr(self, f"{modality}_{what}") for what in ("mean", "std"))
        return (clip * std + mean).round().clamp(0, 255).to(torch.uint8)

    def describe(self) -> dict[str, float | list[float]]:
        """The numbers, plain, for a checkpoint."""
        values = {n: getattr(self, n) for n in ("rgb_mean", "rgb_std", "flow_mean", "flow_std")}
        return {n: v.flatten().tolist() if isinstance(v, Tensor) else v for n, v in values.items()}
