"""Top-1, top-5 and mean class accuracy, the same for clips and for videos."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy


class MeanClassAccuracy(MulticlassAccuracy):
    """Mean of the recalls of the classes that occur; a class without a sample does not count.

    torchmetrics' own macro average counts an absent class as soon as it is predicted.
    """

    def compute(self) -> Tensor:
        """Mean recall, in 0..1."""
        true_positives, _, _, false_negatives = self._final_state()
        support = true_positives + false_negatives
        return (true_positives / support)[support > 0].mean()


def accuracies(num_classes: int, prefix: str = "", over_ranks: bool = True) -> MetricCollection:
    """The three accuracies in 0..1, of scores (N, K) against labels (N,).

    Args:
        num_classes: K.
        prefix: of the names top1, top5 and mean_class.
        over_ranks: whether the ranks of a distributed run count together; all must then compute.
    """
    top5 = min(5, num_classes)
    sync: dict[str, Any] = {"sync_on_compute": over_ranks}
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro", **sync),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=top5, **sync),
            "mean_class": MeanClassAccuracy(num_classes, average="none", **sync),
        },
        prefix=prefix,
        compute_groups=False,  # the groups would copy states between the averages
    )


def scores_of_wrong(labels: Tensor, num_classes: int) -> Tensor:
    """Scores (N, K) by which every label (N,) is the last choice: wrong by all three accuracies.

    With five classes or fewer all of them are among the five best, whatever the scores.
    """
    return -F.one_hot(labels, num_classes).float()


def judge(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """The three accuracies in percent, of what this process has."""
    metrics = accuracies(scores.shape[1], over_ranks=False)
    metrics.update(scores, labels)
    return {name: 100 * float(value) for name, value in metrics.compute().items()}
