"""Two streams over one clip, joined by cross-stream connections and grown along time.

ST-ResNet (Feichtenhofer et al. 2016), ST-MulNet (2017) and their ablations, depending on the
`Connection`, the `TemporalFilters` and the `TemporalPool`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from src.models.connection import ADDITIVE, STAGES, Connection
from src.models.resnet import FUSION_BLOCK, ResNet
from src.models.temporal import INFLATED, TemporalFilters, TemporalPool


class TwoStreamResNet(nn.Module):
    """An appearance and a motion ResNet, joined at their stages.

    Args:
        appearance, motion: streams over RGB frames and flow stacks, which become parts of this net;
            they may differ in depth.
        connection: how the streams meet.
        temporal_filters: how their blocks look along time.
        temporal_pool: a pool over time before the classifiers, None for none.
        dropout: drop probability before both classifiers, in place of the streams' own.

    Raises:
        ValueError: connected streams differ in width, or have nothing to grow filters from.
    """

    def __init__(
        self,
        appearance: ResNet,
        motion: ResNet,
        connection: Connection = ADDITIVE,
        temporal_filters: TemporalFilters = INFLATED,
        temporal_pool: TemporalPool | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.appearance, self.motion = appearance, motion
        self.connection, self.temporal_pool = connection, temporal_pool
        for stage, (a, m) in enumerate(zip(appearance.channels, motion.channels, strict=True), 1):
            if connection.into(stage) and a != m:
                raise ValueError(
                    f"a connection at stage {stage} needs streams of equal width there, not "
                    f"{a} channels of appearance (ResNet-{appearance.depth}) and {m} of "
                    f"motion (ResNet-{motion.depth})"
                )
        for name, stream in (("appearance", appearance), ("motion", motion)):
            stream.dropout.p = dropout
            if name in temporal_filters.streams:
                temporal_filters.grow(stream)

    def forward(self, rgb: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both classifiers, each (B, T', K).

        Args:
            rgb: normalized frames (B, 3, T, H, W).
            flow: normalized flow stacks (B, 2L, T, H, W) of the same frames and crop.

        Raises:
            ValueError: the clip is shorter than the temporal pool, or rgb and flow differ in B
                or T.
        """
        # Before all else: an exporter then knows one batch size and one length, not two of each.
        if (rgb.shape[0], rgb.shape[2]) != (flow.shape[0], flow.shape[2]):
            raise ValueError(
                f"rgb {tuple(rgb.shape)} and flow {tuple(flow.shape)} are not of the same clips: "
                "their B and T differ"
            )
        frames = rgb.shape[2]
        a, m = self.appearance.stem(rgb), self.motion.stem(flow)
        for stage, blocks_a, blocks_m in zip(
            STAGES, self.appearance.stages, self.motion.stages, strict=True
        ):
            x_a, x_m = blocks_a[0](a, a, frames), blocks_m[0](m, m, frames)  # before the ReLU
            into_a, into_m = self.connection(stage, x_a, x_m)
            a = F.relu(blocks_a[FUSION_BLOCK](*into_a, frames))
            m = F.relu(blocks_m[FUSION_BLOCK](*into_m, frames))
            a = blocks_a(a, frames, first_block=FUSION_BLOCK + 1)
            m = blocks_m(m, frames, first_block=FUSION_BLOCK + 1)
        return (
            self.appearance.classify(a, frames, self.temporal_pool),
            self.motion.classify(m, frames, self.temporal_pool),
        )
