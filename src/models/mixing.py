"""Mixing the clips of a batch in training, with their targets: MixUp and CutMix.

Every clip meets its neighbour in the batch, the last clip the first. A batch has one draw: all
frames, and both modalities, are mixed by the same share or in the same box, so that RGB and flow
still show the same scene. Draws come from torch's global generator.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import Video


@dataclass(frozen=True)
class Mixing:
    """What `MixUp` and `CutMix` share.

    Args:
        alpha: the share of a clip's own content is drawn from Beta(alpha, alpha): small values
            leave most batches nearly as they are, 1 makes all shares equally likely.
    """

    alpha: float
    _transform: ClassVar[type[v2.Transform]]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"mixing.alpha={self.alpha}: needs a number above 0")

    def __call__(
        self, clips: dict[str, Tensor], label: Tensor, num_classes: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mix a batch, on the device it is on.

        Args:
            clips: normalised (B, C, T, H, W) of each modality; the same H and W.
            label: (B,).
            num_classes: K.

        Returns:
            Clips like those given, and targets (B, K): the shares of the classes.
        """
        # made here: a transform checks its distribution, which a module built on meta cannot
        transform = self._transform(alpha=self.alpha, num_classes=num_classes)
        videos = {name: Video(clip) for name, clip in clips.items()}
        videos, target = transform(videos, label)
        mixed = {name: video.as_subclass(Tensor) for name, video in videos.items()}
        return mixed, target.to(next(iter(mixed.values())).dtype)


class MixUp(Mixing):
    """Each clip becomes a weighted mean of itself and another (Zhang et al. 2018)."""

    _transform = v2.MixUp


class CutMix(Mixing):
    """A box of each clip is filled from another, in all its frames (Yun et al. 2019)."""

    _transform = v2.CutMix
