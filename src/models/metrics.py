"""Top-1, top-5 and mean class accuracy, the same for clips and for videos."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from src.utils.errors import UserError


class MeanClassAccuracy(Metric):
    """Mean of the recalls of the classes that occur; a class without a sample does not count.

    torchmetrics' own macro average counts an absent class as soon as it is predicted, and its
    counting of pairs makes the host wait for a GPU in the middle of every step.
    """

    right: Tensor
    videos: Tensor

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        for state in ("right", "videos"):  # of each class
            self.add_state(state, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, label: Tensor) -> None:
        """Take in scores (N, K) against labels (N,)."""
        of_class = F.one_hot(label, len(self.videos))  # (N, K)
        hit = scores.argmax(1) == label
        self.right += (of_class * hit[:, None]).sum(0)
        self.videos += of_class.sum(0)

    def compute(self) -> Tensor:
        """Mean recall, in 0..1."""
        return (self.right / self.videos)[self.videos > 0].mean()


def accuracy_metrics(
    num_classes: int, prefix: str = "", postfix: str = "", over_ranks: bool = True
) -> MetricCollection:
    """The accuracies top1, top5 and mean_class in 0..1, of scores (N, K) against labels (N,).

    With `over_ranks` the ranks of a distributed run count together, and all must compute.
    """
    top5 = min(5, num_classes)
    sync: dict[str, Any] = {"sync_on_compute": over_ranks}
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro", **sync),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=top5, **sync),
            "mean_class": MeanClassAccuracy(num_classes, **sync),
        },
        prefix=prefix,
        postfix=postfix,
        compute_groups=False,  # the groups would copy states between the averages
    )


class NetAccuracies(nn.Module):
    """Accuracies of a net, and of each of its streams' classifiers if it has several.

    The names are top1, top5 and mean_class for the net, and top1_appearance and so on for streams,
    all with the prefix.
    """

    def __init__(self, num_classes: int, prefix: str, streams: Sequence[str]) -> None:
        super().__init__()
        self.net = accuracy_metrics(num_classes, prefix)
        self.streams = nn.ModuleDict(
            {s: accuracy_metrics(num_classes, prefix, f"_{s}") for s in streams if len(streams) > 1}
        )

    def update(self, scores: dict[str, Tensor], label: Tensor) -> None:
        """Take in scores (N, K) of each stream against labels (N,)."""
        self.net.update(mean_of_streams(scores), label)
        for stream, metrics in self.streams.items():
            metrics.update(scores[stream], label)  # type: ignore[operator]

    def __iter__(self) -> Iterator[MetricCollection]:
        yield self.net
        yield from self.streams.values()  # type: ignore[misc]


def on_cpu(streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores of videos by each stream, out of a device's memory.

    Raises:
        UserError: they are no numbers, which has to do with the network and not with the videos.
    """
    for stream, scores in streams.items():
        if not scores.isfinite().all():
            raise UserError(
                f"the {stream} classifier gives scores that are not finite: its weights are "
                "damaged, or too large for trainer.precision"
            )
    return {stream: scores.float().cpu() for stream, scores in streams.items()}


def mean_of_streams(scores: dict[str, Tensor]) -> Tensor:
    """Scores (B, K) of a full net from those of its streams, with equal weights."""
    return torch.stack(list(scores.values())).mean(0)


def scores_of_wrong(labels: Tensor, num_classes: int) -> Tensor:
    """Scores (N, K) by which every label (N,) is the last choice: wrong by all three accuracies.

    With five classes or fewer all of them are among the five best, whatever the scores.
    """
    return -F.one_hot(labels, num_classes).float()


def accuracies(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """The three accuracies in percent, of what this process has."""
    metrics = accuracy_metrics(scores.shape[1], over_ranks=False)
    metrics.update(scores, labels)
    return {name: 100 * float(value) for name, value in metrics.compute().items()}
