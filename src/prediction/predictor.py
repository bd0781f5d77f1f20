"""A checkpoint that classifies frames from anywhere; flow is computed from them."""

import logging
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from src.data.dataset import read_view
from src.experiment.build import build_datamodule
from src.experiment.checkpoint import CheckpointMetadata
from src.flow.computed import OnTheFlyFlow
from src.flow.settings import FlowSettings
from src.media.frames_in_order import TimedFrame
from src.media.sources import FlowSource, RGBSource, resize, size_at
from src.models.metrics import mean_of_streams, on_cpu
from src.models.modules import VideoClassifier
from src.prediction.output import Labels
from src.prediction.windows import HeldFrame, HeldFrames, Memory, RememberedFlow, Window

log = logging.getLogger(__name__)


class Predictor:
    """The network, the protocol and the flow of a checkpoint, out of what `load_module` returns.

    Without settings of `flow`, it is computed as the checkpoint's training flow was made.
    """

    def __init__(
        self,
        module: VideoClassifier,
        metadata: CheckpointMetadata,
        flow: FlowSettings | None,
        device: str | torch.device,
    ) -> None:
        self._module, self._device = module.to(device), device
        self._data = build_datamodule(metadata.config)
        self.class_names = metadata.class_names
        trained_on = FlowSettings(**metadata.flow) if metadata.flow else None
        if trained_on and flow:
            flow = replace(flow, short_side=trained_on.short_side, bound=trained_on.bound)
            if flow != trained_on:
                log.warning(
                    "flow by %s, but the network was trained on flow by %s: expect lower accuracy",
                    flow.algorithm,
                    trained_on.algorithm,
                )
        settings = flow or trained_on
        self.flow = settings if settings and "flow" in self._data.modalities else None
        self._algorithm = self.flow.make(str(device)) if self.flow else None

    def video(self, frames: RGBSource, name: str, memory: Memory | None = None) -> Tensor:
        """Probabilities (K,) of a full video, seen as in testing; `memory` gets the flow.

        Raises:
            UserError: the video is broken, or has no flow.
        """
        fields = self._flow(frames)
        if fields and memory is not None:
            fields = RememberedFlow(fields, 0, memory)
        return self._probabilities(self._streams(frames, fields, name))

    def streams(self, frames: RGBSource, name: str) -> dict[str, Tensor]:
        """Scores (K,) of each stream for a full video, seen as in testing; see `video`."""
        return self._streams(frames, self._flow(frames), name)

    def hold(self, frame: TimedFrame) -> HeldFrame:
        """Keep of a frame what its windows need."""
        size = frame.image.shape[:2]
        seen = resize(frame.image, size_at(size, self._data.test_view.short_side))
        at = size_at(size, self.flow.short_side) if self.flow else seen.shape[:2]
        moving = seen if at == seen.shape[:2] else resize(frame.image, at)
        return HeldFrame(frame.index, frame.time, frame.duration, seen, moving)

    def window(self, window: Window, name: str, memory: Memory) -> Tensor:
        """Probabilities (K,) of a window, seen as a video of its own.

        The memory has the flow of earlier windows, and is brought up to this one.

        Raises:
            UserError: it has no flow.
        """
        frames, first = window.frames, window.frames[0].index
        for place in [place for place in memory if place < first]:
            del memory[place]
        fields = self._flow(HeldFrames([frame.moving for frame in frames]))
        streams = self._streams(
            HeldFrames([frame.seen for frame in frames]),
            RememberedFlow(fields, first, memory) if fields else None,
            name,
        )
        return self._probabilities(streams)

    def labels(self, probabilities: Tensor, top_k: int) -> Labels:
        """The most probable classes out of probabilities (K,)."""
        best = probabilities.topk(min(top_k, len(probabilities)))
        return [
            (self.class_names[index], probability)
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _flow(self, frames: RGBSource) -> FlowSource | None:
        if self._algorithm is None or self.flow is None:
            return None
        return OnTheFlyFlow(frames, self.flow, self._algorithm)

    def _streams(
        self, frames: RGBSource, fields: FlowSource | None, name: str
    ) -> dict[str, Tensor]:
        data, rng = self._data, np.random.default_rng(0)
        rgb = frames if "rgb" in data.modalities else None
        sample = read_view(rgb, fields, data.test_view, data.flow_stack, rng, name)
        batch = {name: each.unsqueeze(0).to(self._device) for name, each in sample.items()}
        with torch.inference_mode():
            streams = on_cpu(self._module.video_scores(batch))
        return {stream: scores[0] for stream, scores in streams.items()}

    def _probabilities(self, streams: dict[str, Tensor]) -> Tensor:
        return self._module.protocol.probabilities(mean_of_streams(streams))
