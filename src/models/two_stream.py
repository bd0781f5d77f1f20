"""Two streams over one clip, joined by cross-stream residual connections and temporal filters.

One stage of ST-ResNet (Feichtenhofer, Pinz, Wildes 2016), as its authors released it; x_a and x_m
are the sums before the ReLU f:

    appearance:  unit a -> x_a --f--+-----------------(shortcut)----------------(+)-f-> unit c ..
                             |                                                   |
                             +--(x_a + f(x_m))--[3x1x1]-[3x3]-[3x1x1]--(unit b)--+
                                         ^
                                         | motion to appearance, residual branch only
                                         |
    motion:      unit a -> x_m --f-------+---------------(unit b)---------------(+)-f-> unit c ..

The motion stream never sees appearance, but the appearance stream's loss reaches it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from src.models.resnet import ResNet, TemporalConv

CONNECTIONS = ("none", "additive", "multiplicative")
TEMPORAL_FILTERS = ("none", "converted")
CONNECTED_UNIT = 1  # unit b: gets the connection and the temporal filters


class TwoStreamResNet(nn.Module):
    """An appearance and a motion ResNet, fused at every stage.

    Args:
        appearance: stream over RGB frames; it and `motion` become parts of this net.
        motion: stream over flow stacks.
        connection: how f(x_m) meets x_a: "additive" (ST-ResNet), "multiplicative" (ST-MulNet) or
            "none".
        positions: whether the connection keeps positions. False replaces f(x_m) by its spatial
            average: a control that knows how things move, but not where.
        temporal_filters: "converted" grows both 1x1 convolutions of unit b of every stage, in both
            streams, over time; "none" leaves every frame by itself.
        temporal_pool: size and stride of a max pool over time before the classifiers, None for
            none. A clip of T frames gives T' = (T - size) // stride + 1 logits.
        dropout: drop probability before both classifiers, in place of the streams' own.
    """

    def __init__(
        self,
        appearance: ResNet,
        motion: ResNet,
        connection: str = "additive",
        positions: bool = True,
        temporal_filters: str = "converted",
        temporal_pool: tuple[int, int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if connection not in CONNECTIONS:
            raise ValueError(f"connection {connection!r}: choose from {', '.join(CONNECTIONS)}")
        if temporal_filters not in TEMPORAL_FILTERS:
            raise ValueError(
                f"temporal_filters {temporal_filters!r}: choose from {', '.join(TEMPORAL_FILTERS)}"
            )
        if connection != "none" and appearance.width != motion.width:
            raise ValueError(
                f"a connection needs streams of equal width, not {appearance.width} and "
                f"{motion.width}"
            )
        self.appearance, self.motion = appearance, motion
        self.connection, self.positions = connection, positions
        self.shortest_clip, self.temporal_pool = 1, None
        if temporal_pool is not None:
            self.shortest_clip, stride = temporal_pool
            self.temporal_pool = nn.MaxPool3d((self.shortest_clip, 1, 1), (stride, 1, 1))
        for stream in (appearance, motion):
            stream.dropout.p = dropout
            if temporal_filters == "converted":
                grow_temporal_filters(stream)

    def forward(self, rgb: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both classifiers, each (B, T', K).

        Args:
            rgb: normalised frames (B, 3, T, H, W).
            flow: normalised flow stacks (B, 2L, T, H, W) of the same frames and crop.
        """
        frames = rgb.shape[2]
        if frames < self.shortest_clip:
            raise ValueError(
                f"a clip of {frames} frames is shorter than the temporal pool of "
                f"{self.shortest_clip}"
            )
        a, m = self.appearance.stem(rgb), self.motion.stem(flow)
        for stage_a, stage_m in zip(self.appearance.stages, self.motion.stages, strict=True):
            x_a, x_m = stage_a[0](a, a, frames), stage_m[0](m, m, frames)  # before the ReLU
            a, m = F.relu(x_a), F.relu(x_m)
            a = F.relu(stage_a[CONNECTED_UNIT](a, self._connect(x_a, a, m), frames))
            m = F.relu(stage_m[CONNECTED_UNIT](m, m, frames))
            a = stage_a(a, frames, first_unit=CONNECTED_UNIT + 1)
            m = stage_m(m, frames, first_unit=CONNECTED_UNIT + 1)
        return (
            self.appearance.classify(a, frames, self.temporal_pool),
            self.motion.classify(m, frames, self.temporal_pool),
        )

    def _connect(self, x_a: Tensor, a: Tensor, m: Tensor) -> Tensor:
        """Input of the connected residual branch from x_a, a = f(x_a) and m = f(x_m)."""
        if self.connection == "none":
            return a
        if not self.positions:
            m = m.mean((-2, -1), keepdim=True)
        return x_a + m if self.connection == "additive" else x_a * m


def grow_temporal_filters(stream: ResNet) -> None:
    """Turn both 1x1 convolutions of unit b of every stage into 3x1x1 ones, in place."""
    for stage in stream.stages:
        unit = stage[CONNECTED_UNIT]
        for name in ("conv1", "conv3"):
            setattr(unit, name, TemporalConv.from_spatial(getattr(unit, name)))
