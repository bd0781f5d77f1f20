"""A naive reading of the papers' equations over a state dict; it shares no code with the networks.

Clips stay (B, C, T, H, W); a 4-D filter sees frame by frame, a 5-D one sees time. f is the ReLU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import relu as f

State = dict[str, Tensor]


class Reference:
    """One network's weights, and the options that are not visible in them.

    `caffe` networks are known by the bias of their conv1.
    """

    def __init__(
        self,
        weights: State,
        kind: str = "additive",
        path: str = "residual",
        direction: str = "motion_to_appearance",
        stages: tuple[int, ...] = (1, 2, 3, 4),
        spatial: bool = True,
        temporal_pool: tuple[str, int, int] | None = None,
    ) -> None:
        self.w, self.kind, self.path, self.direction = weights, kind, path, direction
        self.stages, self.spatial, self.temporal_pool = stages, spatial, temporal_pool

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        if weight.ndim == 5:
            return F.conv3d(x, weight, bias, padding=(1, 0, 0))
        side = weight.shape[-1]
        frames = [F.conv2d(frame, weight, bias, stride, side // 2) for frame in x.unbind(2)]
        return torch.stack(frames, 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        w = self.w
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        shaped = [v.view(-1, 1, 1, 1) for v in (mean, var, w[f"{name}.weight"], w[f"{name}.bias"])]
        mean, var, scale, shift = shaped
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def branch(self, block: str, x: Tensor, stride: int = 1) -> Tensor:
        caffe = f"{block.split('.')[0]}.conv1.bias" in self.w
        if f"{block}.conv3.weight" not in self.w:  # a basic block
            x = f(self.norm(f"{block}.bn1", self.conv(f"{block}.conv1", x, stride)))
            x = self.inserted(block, x)
            return self.norm(f"{block}.bn2", self.conv(f"{block}.conv2", x))
        first, second = (stride, 1) if caffe else (1, stride)
        x = f(self.norm(f"{block}.bn1", self.conv(f"{block}.conv1", x[..., ::first, ::first])))
        x = f(self.norm(f"{block}.bn2", self.conv(f"{block}.conv2", x, second)))
        x = self.inserted(block, x)
        return self.norm(f"{block}.bn3", self.conv(f"{block}.conv3", x))

    def inserted(self, block: str, x: Tensor) -> Tensor:
        name = f"{block}.temporal"
        return self.conv(name, x) if f"{name}.weight" in self.w else x

    def block_0(self, block: str, x: Tensor, stride: int) -> Tensor:
        shortcut = x
        if f"{block}.downsample.0.weight" in self.w:
            shortcut = self.norm(
                f"{block}.downsample.1",
                self.conv(f"{block}.downsample.0", x[..., ::stride, ::stride]),
            )
        return shortcut + self.branch(block, x, stride)

    def later_units(self, stage: str, x: Tensor) -> Tensor:
        number = 2
        while f"{stage}.{number}.conv1.weight" in self.w:
            x = f(x + self.branch(f"{stage}.{number}", x))
            number += 1
        return x

    def stem(self, stream: str, x: Tensor) -> Tensor:
        x = f(self.norm(f"{stream}.bn1", self.conv(f"{stream}.conv1", x, stride=2)))
        if f"{stream}.conv1.bias" in self.w:
            x = F.pad(x, (0, 2, 0, 2), value=float("-inf"))  # a last window may be partial
            return torch.stack([caffe_pool(frame) for frame in x.unbind(2)], 2)
        return torch.stack([F.max_pool2d(frame, 3, 2, 1) for frame in x.unbind(2)], 2)

    def classify(self, stream: str, x: Tensor) -> Tensor:
        if self.temporal_pool:
            kind, size, stride = self.temporal_pool
            windows = [x[:, :, i : i + size] for i in range(0, x.shape[2] - size + 1, stride)]
            pooled = [w.amax(2) if kind == "max" else w.mean(2) for w in windows]
            x = torch.stack(pooled, 2)
        features = x.mean((-2, -1)).transpose(1, 2)  # (B, T', C); small images: one global pool
        return F.linear(features, self.w[f"{stream}.fc.weight"], self.w[f"{stream}.fc.bias"])

    def __call__(self, rgb: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both streams."""
        a, m = self.stem("appearance", rgb), self.stem("motion", flow)
        for stage in (1, 2, 3, 4):
            stage_a, stage_m, stride = (
                f"appearance.layer{stage}",
                f"motion.layer{stage}",
                min(stage, 2),
            )
            x_a = self.block_0(f"{stage_a}.0", a, stride)
            x_m = self.block_0(f"{stage_m}.0", m, stride)
            into_a = into_m = None
            if self.kind != "none" and stage in self.stages:
                if self.direction in ("motion_to_appearance", "both"):
                    into_a = self.fused(x_a, x_m)
                if self.direction in ("appearance_to_motion", "both"):
                    into_m = self.fused(x_m, x_a)
            a = self.block_1(f"{stage_a}.1", x_a, into_a)
            m = self.block_1(f"{stage_m}.1", x_m, into_m)
            a, m = self.later_units(stage_a, a), self.later_units(stage_m, m)
        return self.classify("appearance", a), self.classify("motion", m)

    def fused(self, x: Tensor, other: Tensor) -> Tensor:
        signal = f(other) if self.spatial else f(other).mean((-2, -1), keepdim=True)
        return x + signal if self.kind == "additive" else x * signal

    def block_1(self, block: str, x: Tensor, fused: Tensor | None) -> Tensor:
        if fused is None:
            return f(f(x) + self.branch(block, f(x)))
        shortcut = fused if self.path == "direct" else f(x)
        return f(shortcut + self.branch(block, fused))


def caffe_pool(x: Tensor) -> Tensor:
    """3x3 windows at stride 2 as long as they begin inside the image, padded on two sides by 2."""
    height, width = x.shape[-2] - 2, x.shape[-1] - 2
    rows = -(-(height - 3) // 2) + 1
    columns = -(-(width - 3) // 2) + 1
    windows = [
        [x[..., 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] for j in range(columns)] for i in range(rows)
    ]
    return torch.stack([torch.stack([w.amax((-2, -1)) for w in row], -1) for row in windows], -2)
