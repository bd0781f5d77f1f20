"""A third stream beside the two, over differences of frames: all that it takes in one file.

    python -m src.train --config-dir tests/extension/conf experiment=three_streams

To have src.evaluate and src.predict take its checkpoints, whose configs may name nothing outside
the project, put this file into src/models and let the config name it there.
"""

from typing import Any

from torch import Tensor

from src.models.modules import VideoClassifier
from src.models.resnet import ResNet
from src.models.two_stream import TwoStreamResNet


class ThreeStreams(TwoStreamResNet):
    """Two joined streams and one of its own, over the change from one frame of a clip to the next.

    Args:
        appearance: stream over RGB frames.
        motion: stream over flow stacks.
        change: stream over differences of frames.
        arguments: those of `TwoStreamResNet`.
    """

    def __init__(
        self, appearance: ResNet, motion: ResNet, change: ResNet, **arguments: Any
    ) -> None:
        super().__init__(appearance, motion, **arguments)
        self.change = change

    def forward(self, rgb: Tensor, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Logits of each stream, (B, T, K) of two and (B, T - 1, K) of the third."""
        appearance, motion = super().forward(rgb, flow)
        return appearance, motion, self.change(rgb[:, :, 1:] - rgb[:, :, :-1])


class ThreeStreamModule(VideoClassifier):
    """Joint training of all three."""

    streams = ("appearance", "motion", "change")

    def classify(self, clips: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits of each stream."""
        logits = self.net(clips["rgb"], clips["flow"])
        return {stream: one.float() for stream, one in zip(self.streams, logits, strict=True)}
