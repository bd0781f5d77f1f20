import numpy as np
import pytest
import torch

from src.models.metrics import accuracies, accuracy_metrics


def test_against_numpy_over_several_batches() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 9, 200)  # of 12 classes, three never occur
    scores = random.normal(size=(200, 12))
    scores[np.arange(200), labels] += random.normal(1, 1, 200)
    ranked = np.argsort(-scores, axis=1)
    right = ranked[:, 0] == labels
    expected = {
        "top1": right.mean(),
        "top5": (ranked[:, :5] == labels[:, None]).any(1).mean(),
        "mean_class": np.mean([right[labels == label].mean() for label in np.unique(labels)]),
    }
    assert len({round(value, 3) for value in expected.values()}) == 3
    metrics = accuracy_metrics(12, prefix="val/")
    for part in np.array_split(np.arange(200), 3):
        metrics.update(torch.from_numpy(scores[part]), torch.from_numpy(labels[part]))
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx({f"val/{name}": value for name, value in expected.items()})
    in_percent = {name: 100 * value for name, value in expected.items()}
    assert accuracies(torch.from_numpy(scores), torch.from_numpy(labels)) == pytest.approx(
        in_percent
    )


def test_few_classes_and_one_that_is_only_predicted() -> None:
    scores = torch.eye(3)[[0, 2, 1]]  # class 2 is predicted but does not occur
    judged = accuracies(scores, torch.tensor([0, 0, 1]))
    assert judged == pytest.approx({"top1": 200 / 3, "top5": 100, "mean_class": 75})
