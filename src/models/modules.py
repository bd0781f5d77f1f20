"""The two LightningModules: a stream trained alone, and both streams trained jointly.

Both own loss, metrics and optimiser; the net stays a plain nn.Module. They differ in one method,
`logits`, which says what goes into the net and which streams come out.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from src.data.transforms import mirror_flow, mirror_rgb
from src.models.metrics import accuracies
from src.models.normalise import Normalise
from src.models.optimisation import parameter_groups
from src.models.resnet import ResNet
from src.models.schedules import Schedule
from src.models.two_stream import TwoStreamResNet

Batch = dict[str, Any]  # rgb and/or flow (uint8), label (B,), video: list of names
OptimizerFactory = Callable[[Iterable[dict[str, Any]]], torch.optim.Optimizer]


class VideoClassifier(pl.LightningModule):
    """What both stages share: see `StreamModule` and `JointModule`.

    Training and validation see clips (validation: the central one), testing sees videos: the
    logits of all frames, streams and, if videos may be mirrored, of both orientations, averaged.

    Args:
        net: the network to train.
        normalise: how its input is normalised.
        optimizer: takes parameter groups, whose learning rates the schedule sets.
        schedule: learning rate over the passes.
        num_classes: K.
        mirror: average each video's scores with those of its mirror image.
    """

    def __init__(
        self,
        net: nn.Module,
        normalise: Normalise,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        num_classes: int,
        mirror: bool = True,
    ) -> None:
        super().__init__()
        self.net, self.normalise = net, normalise
        self.optimizer, self.schedule, self.mirror = optimizer, schedule, mirror
        self.train_metrics = accuracies(num_classes, "train/clip/")
        self.val_metrics = accuracies(num_classes, "val/clip/")
        self.test_metrics = accuracies(num_classes, "test/video/")

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, T', K) of each stream's classifier for a uint8 batch."""
        raise NotImplementedError

    def loss(self, logits: dict[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of each stream at each time step; their sum is minimised.

        That is how the authors of ST-ResNet train, with equal weights."""
        return {
            stream: F.cross_entropy(
                scores.flatten(0, 1), label.repeat_interleave(scores.shape[1])
            )  # (B * T', K) against (B * T')
            for stream, scores in logits.items()
        }

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch of clips."""
        return self._clip_step(batch, "train", self.train_metrics)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Clip-level accuracy on central clips."""
        self._clip_step(batch, "val", self.val_metrics)

    def _clip_step(self, batch: Batch, phase: str, metrics: MetricCollection) -> Tensor:
        logits = self.logits(batch)
        losses = self.loss(logits, batch["label"])
        total = torch.stack(list(losses.values())).sum()
        scores = mean_of_streams({stream: values.mean(1) for stream, values in logits.items()})
        metrics.update(scores, batch["label"])
        size = len(batch["label"])
        if len(losses) > 1:
            for stream, loss in losses.items():
                self.log(f"{phase}/loss_{stream}", loss, batch_size=size, on_epoch=True)
        self.log(f"{phase}/loss", total, batch_size=size, on_epoch=True, prog_bar=True)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=size)
        return total

    def video_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, K) of each stream, averaged over time and mirror images."""
        views = [self.logits(batch)]
        if self.mirror:
            views.append(self.logits(mirrored(batch)))
        return {
            stream: torch.stack([view[stream].mean(1) for view in views]).mean(0)
            for stream in views[0]
        }

    def test_step(self, batch: Batch, _: int) -> Batch:  # noqa: PT019
        """Scores (B, K) of whole videos: of each stream and, the mean of those, of the net."""
        streams = self.video_scores(batch)
        scores = mean_of_streams(streams)
        self.test_metrics.update(scores, batch["label"])
        self.log_dict(self.test_metrics, on_step=False, on_epoch=True, batch_size=len(scores))
        return {
            "video": batch["video"],
            "label": batch["label"],
            "scores": scores,
            "streams": streams,
        }

    def configure_optimizers(self) -> Any:
        """Build the optimiser and a schedule that is followed step by step."""
        optimizer = self.optimizer(parameter_groups(self.net))
        steps_per_epoch = self.trainer.estimated_stepping_batches / (self.trainer.max_epochs or 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.schedule(step / steps_per_epoch)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class StreamModule(VideoClassifier):
    """Pretraining of one stream on single frames or flow stacks.

    Args:
        modality: "rgb" or "flow".
        net: a `ResNet` for that input.
        arguments: those of `VideoClassifier`.
    """

    def __init__(self, modality: str, net: ResNet, **arguments: Any) -> None:
        if modality not in ("rgb", "flow"):
            raise ValueError(f"modality {modality!r}: choose rgb or flow")
        super().__init__(net, **arguments)
        self.modality = modality

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, T, K) of the stream."""
        clip = getattr(self.normalise, self.modality)(batch[self.modality])
        return {"appearance" if self.modality == "rgb" else "motion": self.net(clip)}


class JointModule(VideoClassifier):
    """Fine-tuning of both streams as one spatiotemporal network.

    Args:
        net: a `TwoStreamResNet`.
        arguments: those of `VideoClassifier`.
    """

    def __init__(self, net: TwoStreamResNet, **arguments: Any) -> None:
        super().__init__(net, **arguments)

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, T', K) of both streams."""
        appearance, motion = self.net(
            self.normalise.rgb(batch["rgb"]), self.normalise.flow(batch["flow"])
        )
        return {"appearance": appearance, "motion": motion}


def mean_of_streams(scores: dict[str, Tensor]) -> Tensor:
    """Scores (B, K) of a whole net from those of its streams, with equal weights."""
    return torch.stack(list(scores.values())).mean(0)


def mirrored(batch: Batch) -> Batch:
    """The batch as seen in a mirror."""
    images = {"rgb": mirror_rgb, "flow": mirror_flow}
    return batch | {name: flip(batch[name]) for name, flip in images.items() if name in batch}
