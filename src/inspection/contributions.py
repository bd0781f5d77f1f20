"""What the cross-stream connection contributes at each stage, and what is lost without it."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from src.models.connection import STAGES, Connection, Inputs
from src.models.metrics import mean_of_streams
from src.models.modules import Batch, VideoClassifier
from src.models.two_stream import TwoStreamResNet
from src.plotting.charts import COLORS
from src.utils.errors import UserError


@dataclass(frozen=True)
class Contribution:
    """Of the connection at one stage (1 to 4); all are means over clips."""

    stage: int
    # For each stream that gets a signal there, by how much the signal changes what goes into the
    # residual branch: |fused - x| / |x|, where x is the stream's own sum. If the connection is
    # additive, that is |f(x_m)| / |x_a|.
    ratios: dict[str, float]
    top1: float  # clip-level accuracy of the net as it is, in percent
    top1_without: float  # the same, but with nothing connected at this stage
    logit_change: float  # |z' - z| / |z| of the net's logits, with z' without this connection
    clips: int  # measured


@torch.no_grad()
def contributions(module: VideoClassifier, batches: Iterable[Batch]) -> list[Contribution]:
    """Measure every connected stage of a joint net, by switching it off while the others stay.

    The batches are labelled uint8 clips, on the net's device.

    Raises:
        UserError: the net has no connection, or there is no clip.
    """
    net = module.net
    if not isinstance(net, TwoStreamResNet):
        raise UserError("a stream alone has no connection: give the checkpoint of a joint stage")
    connection = net.connection
    stages = [stage for stage in STAGES if connection.into(stage)]
    if not stages:
        raise UserError("this network's streams are not connected: connection.kind=none")
    ratios: list[dict[tuple[int, str], Tensor]] = []
    labels: list[Tensor] = []
    full: list[Tensor] = []
    without: dict[int, list[Tensor]] = {stage: [] for stage in stages}
    with module.evaluating():
        for batch in batches:
            measured = _Measured(connection, len(batch["label"]))
            with _connected_by(net, measured):
                full.append(_logits(module, batch))
            ratios.append(measured.ratios)
            labels.append(batch["label"])
            for stage in stages:
                others = tuple(other for other in connection.stages if other != stage)
                with _connected_by(net, replace(connection, stages=others)):
                    without[stage].append(_logits(module, batch))
    if not labels:
        raise UserError("there is no clip to measure contributions on")
    label, z = torch.cat(labels), torch.cat(full)
    measurements = []
    for stage in stages:
        z_without = torch.cat(without[stage])
        means = {
            stream: float(torch.cat([batch[stage, stream] for batch in ratios]).mean())
            for stream in connection.into(stage)
        }
        change = float(((z_without - z).norm(dim=1) / z.norm(dim=1)).mean())
        top1 = _top1(z, label), _top1(z_without, label)
        measurements.append(Contribution(stage, means, *top1, change, len(label)))
    return measurements


@contextlib.contextmanager
def _connected_by(net: TwoStreamResNet, connection: Any) -> Iterator[None]:
    """With another connection; no weight belongs to one."""
    own = net.connection
    net.connection = connection
    try:
        yield
    finally:
        net.connection = own


class _Measured:
    """A connection that keeps, for each clip, what it adds to its streams."""

    def __init__(self, connection: Connection, clips: int) -> None:
        self.connection, self.clips = connection, clips
        self.ratios: dict[tuple[int, str], Tensor] = {}  # (B,) by stage and stream

    def __call__(self, stage: int, x_a: Tensor, x_m: Tensor) -> tuple[Inputs, Inputs]:
        into_a, into_m = self.connection(stage, x_a, x_m)
        for stream in self.connection.into(stage):
            x, fused = (x_a, into_a[1]) if stream == "appearance" else (x_m, into_m[1])
            self.ratios[stage, stream] = self._norms(fused - x) / self._norms(x)
        return into_a, into_m

    def _norms(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.clips, -1)).flatten(1).norm(dim=1)  # (B * T, C, H, W) to (B,)


def _logits(module: VideoClassifier, batch: Batch) -> Tensor:
    """The net's logits (B, K), the mean over time and streams."""
    streams = module.logits(batch)
    return mean_of_streams({stream: values.mean(1) for stream, values in streams.items()})


def _top1(logits: Tensor, label: Tensor) -> float:
    return 100 * float((logits.argmax(1) == label).double().mean())


def draw_contributions(contributions: Sequence[Contribution]) -> Figure:
    """Draw the signal of each connected stage, and the accuracy and logits without it."""
    names = [f"stage {each.stage}" for each in contributions]
    places = np.arange(len(contributions))
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    signal, accuracy, logits = figure.subplots(1, 3)
    streams = list(contributions[0].ratios)
    width = 0.7 / len(streams)
    for index, stream in enumerate(streams):
        at = places + (index - (len(streams) - 1) / 2) * width
        values = [each.ratios[stream] for each in contributions]
        bars = signal.bar(at, values, width, color=COLORS[index], label=f"into {stream}")
        signal.bar_label(bars, fmt="%.2f", fontsize=8)
    signal.set_title("size of the signal, in sizes of what it enters", fontsize=9)
    signal.legend(fontsize=8, frameon=False)
    bars = accuracy.bar(places, [each.top1_without for each in contributions], 0.7, color=COLORS[0])
    accuracy.bar_label(bars, fmt="%.1f", fontsize=8, label_type="center", color="white")
    accuracy.axhline(
        contributions[0].top1, color=COLORS[1], label=f"all on: {contributions[0].top1:.1f}"
    )
    accuracy.set_ylim(0, 115)
    accuracy.set_title(
        f"clip-level top-1 % without it ({contributions[0].clips} clips)", fontsize=9
    )
    accuracy.legend(fontsize=8, frameon=False, loc="upper right")
    bars = logits.bar(places, [each.logit_change for each in contributions], 0.7, color=COLORS[0])
    logits.bar_label(bars, fmt="%.2f", fontsize=8)
    logits.set_title("relative change of the logits without it", fontsize=9)
    for axes in (signal, accuracy, logits):
        axes.set_xticks(places, names)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (signal, logits):
        axes.margins(y=0.25)
        axes.set_ylim(bottom=0)
    return figure
