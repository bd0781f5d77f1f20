"""The two LightningModules, of a stream trained alone and of both streams trained jointly.

They own loss, metrics and optimizer; the net stays a plain nn.Module. They differ in one method,
`classify`, which says what goes into the net and which streams come out.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from src.models.metrics import NetAccuracies, mean_of_streams
from src.models.normalize import Normalize
from src.models.optimization import (
    Optimization,
    check_class_weights,
    freeze_batch_norm,
    parameter_groups,
    weights_of_classes,
)
from src.models.resnet import ResNet
from src.models.temporal import STREAMS

PARTIAL_EPOCH = "partial_epoch"  # in a checkpoint: the states of its averages
Batch = dict[str, Any]  # rgb and/or flow (uint8), label (B,), video: list of names


class VideoClassifier(pl.LightningModule):
    """What both stages share: see `StreamModule` and `JointModule`.

    Training and validation see clips (validation: the central one), testing sees videos, whose
    views, frames and streams are averaged as the protocol says.

    Args:
        net: the network to train.
        normalize: how its input is normalized.
        num_classes: K.
        protocol: what testing sees of a video, and how its scores are averaged, as
            `src.evaluation.protocol.TestProtocol`.
        optimization: how it is trained; None for a network that is not.

    Attributes:
        lr: the learning rate; Lightning's LearningRateFinder sets it.
    """

    weight_of_class: Tensor | None  # (K,)
    modalities: tuple[str, ...] = ("rgb", "flow")
    streams: tuple[str, ...] = STREAMS  # what `classify` gives logits of

    def __init__(
        self,
        net: nn.Module,
        normalize: Normalize,
        num_classes: int,
        protocol: Any,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__()
        self.net, self.normalize = net, normalize
        self.num_classes, self.protocol = num_classes, protocol
        self.optimization = optimization
        self.batch_norm = optimization.batch_norm if optimization else "train"
        self.lr = optimization.lr if optimization else None
        freeze_batch_norm(net, self.batch_norm)
        check_class_weights(optimization and optimization.class_weights, num_classes)
        # Not in checkpoints: it follows from the choice and the training list.
        self.register_buffer("weight_of_class", None, persistent=False)
        self.last_losses: dict[str, Tensor] = {}  # of each stream, in the last training step
        self.train_losses = nn.ModuleDict(
            {name: MeanMetric(nan_strategy="disable") for name in _loss_names(self.streams)}
        )
        self.train_metrics = NetAccuracies(num_classes, "train/clip/", self.streams)
        self.val_metrics = NetAccuracies(num_classes, "val/clip/", self.streams)
        self.test_metrics = NetAccuracies(num_classes, "test/video/", self.streams)

    def train(self, mode: bool = True) -> Self:
        """Enter training or evaluation; frozen batch norm stays as it is."""
        super().train(mode)
        freeze_batch_norm(self.net, self.batch_norm)
        return self

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """In evaluation mode; each of its parts is then as it was."""
        training = {part: part.training for part in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for part, mode in training.items():
                part.training = mode

    def clips(self, batch: Batch) -> dict[str, Tensor]:
        """Normalized clips (B, C, T, H, W) of each modality, from a uint8 batch."""
        return {name: getattr(self.normalize, name)(batch[name]) for name in self.modalities}

    def classify(self, clips: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, T', K) of each stream's classifier for normalized clips, always in float32.

        Losses, accuracies and scores are computed from them, whatever the network computes in.
        """
        raise NotImplementedError

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, T', K) of each stream's classifier for a uint8 batch."""
        return self.classify(self.clips(batch))

    def weigh_classes(self, labels: Sequence[int]) -> None:
        """Set the classes' weights in the loss by the labels of the videos trained on."""
        if chosen := self.optimization and self.optimization.class_weights:
            self.weight_of_class = weights_of_classes(chosen, labels, self.num_classes)

    def loss(
        self, logits: dict[str, Tensor], target: Tensor, training: bool = False
    ) -> dict[str, Tensor]:
        """Cross-entropy of each stream, its mean over clips and time steps; the sum is minimized.

        That is how the authors of ST-ResNet train, with equal weights.

        Args:
            logits: (B, T', K) of each stream.
            target: labels (B,), or shares of the classes (B, K).
            training: whether labels are smoothed and classes weighted. The sum is then divided by
                the number of clips, not by their weights as torch does: so the mean over a batch's
                parts is that over the batch.
        """
        weights = self.weight_of_class if training else None
        smoothing = self.optimization.label_smoothing if training and self.optimization else 0.0
        return {
            stream: F.cross_entropy(
                scores.flatten(0, 1),
                target.repeat_interleave(scores.shape[1], dim=0),
                None if weights is None else weights.to(scores.dtype),
                label_smoothing=smoothing,
                reduction="sum",
            )
            / scores.shape[:2].numel()  # (B * T', K) against (B * T') or (B * T', K)
            for stream, scores in logits.items()
        }

    def training_clips(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """What the net gets in training for a uint8 batch, and its targets: see `loss`."""
        clips, target = self.clips(batch), batch["label"]
        if self.optimization and self.optimization.mixing:
            clips, target = self.optimization.mixing(clips, target, self.num_classes)
        return clips, target

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch of clips; accuracy too, unless mixing leaves no clip of one class.

        What comes back is weighted, so that the sum over the batches of an accumulated update is
        the mean over all of its clips.
        """
        clips, target = self.training_clips(batch)
        logits = self.classify(clips)
        losses = self.loss(logits, target, training=True)
        self.last_losses = {stream: loss.detach() for stream, loss in losses.items()}
        if self.optimization is None or self.optimization.mixing is None:
            self._log_accuracies(logits, batch["label"], self.train_metrics)
        named = _named_losses(losses)
        for name, loss in named.items():
            self.log(f"train/{name}_step", loss, sync_dist=True)
            mean: Any = self.train_losses[name]
            mean.update(loss.detach().expand(len(target)))  # it ignores weights if NaNs may pass
            self.log(f"train/{name}_epoch", mean, on_step=False, on_epoch=True)
        return named["loss"] * self._weight(batch_idx, len(target))

    def _weight(self, batch_idx: int, clips: int) -> float:
        # Lightning divides by the number of batches of an update; the last one of an epoch may have
        # fewer, and fewer clips in its last batch.
        together: int = self.trainer.accumulate_grad_batches
        loader: Any = self.trainer.train_dataloader
        if together == 1 or getattr(loader, "batch_size", None) is None:
            return 1.0
        first = batch_idx - batch_idx % together
        end = min(first + together, int(self.trainer.num_training_batches))
        size = loader.batch_size
        return together * clips / (min(end * size, len(loader.sampler)) - first * size)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Loss and clip-level accuracy on central clips."""
        logits = self.logits(batch)
        self._log_accuracies(logits, batch["label"], self.val_metrics)
        for name, loss in _named_losses(self.loss(logits, batch["label"])).items():
            size = len(batch["label"])  # over all ranks: each has seen other clips
            self.log(f"val/{name}", loss, batch_size=size, on_epoch=True, sync_dist=True)

    def _log_accuracies(
        self, logits: dict[str, Tensor], label: Tensor, metrics: NetAccuracies
    ) -> None:
        metrics.update({stream: values.mean(1) for stream, values in logits.items()}, label)
        for accuracies in metrics:
            self.log_dict(accuracies, on_step=False, on_epoch=True, batch_size=len(label))

    def video_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Scores (B, K) of each stream for uint8 videos, averaged by the protocol."""
        return self.protocol.video_scores(self.logits, batch)

    def test_step(self, batch: Batch, _: int) -> Batch:  # noqa: PT019
        """Scores (B, K) of full videos: of each stream and, the mean of those, of the net."""
        streams = self.video_scores(batch)
        self.test_metrics.update(streams, batch["label"])
        known = {"video": batch["video"], "label": batch["label"]}
        return {**known, "scores": mean_of_streams(streams), "streams": streams}

    def on_test_epoch_end(self) -> None:
        """Log the accuracies, to which callbacks may have added videos that count as wrong."""
        for accuracies in self.test_metrics:
            self.log_dict(accuracies)

    def configure_optimizers(self) -> Any:
        """The optimizer of all parameters that are not frozen, and the scheduler of its rates."""
        chosen = self.optimization
        assert chosen is not None
        assert self.lr is not None
        optimizer = chosen.optimizer(parameter_groups(self.net, self.lr, chosen.lr_multipliers))
        if chosen.lr_scheduler is None:
            return {"optimizer": optimizer}
        scheduler = chosen.lr_scheduler(optimizer)
        # what ReduceLROnPlateau looks at
        how = {"scheduler": scheduler, "interval": chosen.lr_interval, "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": how}

    def on_train_start(self) -> None:
        """Follow the rate that a LearningRateFinder has found: it knows no multipliers."""
        if self.optimization is None or self.lr == self.optimization.lr:
            return
        chosen = self.configure_optimizers()
        groups = self.trainer.optimizers[0].param_groups
        for group, own in zip(groups, chosen["optimizer"].param_groups, strict=True):
            group.update({key: own[key] for key in ("lr", "initial_lr") if key in own})
        for used in self.trainer.lr_scheduler_configs:
            used.scheduler.load_state_dict(chosen["lr_scheduler"]["scheduler"].state_dict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what an epoch has come to so far on all ranks, for averages over all of it."""
        loop, strategy = self.trainer.fit_loop.epoch_loop, self.trainer.strategy
        if not loop.batch_progress.is_last_batch:
            checkpoint[PARTIAL_EPOCH] = {
                name: {
                    key: strategy.reduce(torch.as_tensor(state).clone(), reduce_op="sum")
                    for key, state in metric.metric_state.items()
                }
                for name, metric in self._averages()
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume from it, on the first rank for all of them."""
        so_far = checkpoint.get(PARTIAL_EPOCH, {}) if self.trainer.is_global_zero else {}
        for name, metric in self._averages():
            for key, state in so_far.get(name, {}).items():
                setattr(metric, key, state.to(metric.device))

    def _averages(self) -> Iterator[tuple[str, Metric]]:
        """What is averaged over an epoch of training; all states are sums."""
        for part in (self.train_losses, self.train_metrics):
            for name, metric in part.named_modules():
                if isinstance(metric, Metric):
                    yield name, metric


def _loss_names(streams: Iterable[str]) -> list[str]:
    """Of the loss that is minimized, then of its parts where there are several."""
    parts = [f"loss_{stream}" for stream in streams]
    return ["loss", *(parts if len(parts) > 1 else [])]


def _named_losses(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sum of the streams' losses, then its parts, by `_loss_names`."""
    total = torch.stack(list(losses.values())).sum()
    return dict(zip(_loss_names(losses), [total, *losses.values()], strict=False))


class StreamModule(VideoClassifier):
    """Pretraining of one stream on single frames or flow stacks.

    Its `net` is a `ResNet` for the modality, "rgb" or "flow".
    """

    def __init__(self, modality: str, net: ResNet, **arguments: Any) -> None:
        if modality not in ("rgb", "flow"):
            raise ValueError(f"modality {modality!r}: choose rgb or flow")
        self.streams = ("appearance" if modality == "rgb" else "motion",)
        super().__init__(net, **arguments)
        self.modality, self.modalities = modality, (modality,)

    def classify(self, clips: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, T, K) of the stream."""
        return {self.streams[0]: self.net(clips[self.modality]).float()}


class JointModule(VideoClassifier):
    """Fine-tuning of both streams as one spatiotemporal network.

    Its `net` is a `TwoStreamResNet`.
    """

    def classify(self, clips: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, T', K) of both streams."""
        appearance, motion = self.net(clips["rgb"], clips["flow"])
        return {"appearance": appearance.float(), "motion": motion.float()}
