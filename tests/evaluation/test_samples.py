import json
from pathlib import Path

import av
import cv2
import pytest
import torch

from src.evaluation.samples import NET, choose_samples, load_samples
from src.evaluation.scores import VideoScores
from src.models.temporal import STREAMS


@pytest.mark.parametrize("stage", ["appearance", "motion", "joint"])
def test_a_stage_leaves_pictures_of_what_it_saw_and_said(finished_run: Path, stage: str) -> None:
    samples = load_samples(finished_run / stage / "samples")
    scores = VideoScores.load(finished_run / stage / "scores.csv")
    assert len(samples) == len(scores.videos) == len({sample.video for sample in samples})
    for sample in samples:
        place = scores.videos.index(sample.video)
        row, label = scores.scores[place], scores.labels[place]
        assert sample.label == scores.classes[label]
        shares = row.softmax(-1)
        said = sample.predictions[NET]
        assert said.prediction == scores.classes[int(row.argmax())]
        assert said.probability == pytest.approx(float(shares.max()), abs=1e-4)
        assert said.of_label == pytest.approx(float(shares[label]), abs=1e-4)
        assert sample.predictions.keys() - {NET} == (set(STREAMS) if stage == "joint" else set())
        picture = cv2.imread(str(sample.picture))
        assert picture is not None
        assert picture.shape[0] == (224 if stage == "joint" else 112)
        with av.open(str(sample.film)) as film:
            assert len(list(film.decode(video=0))) == 11


def _scores(labels: list[int], predicted: list[int], margins: list[float]) -> VideoScores:
    rows = torch.zeros(len(labels), 3)
    for row, best, margin in zip(rows, predicted, margins, strict=True):
        row[best] = margin
    videos = [f"v{i}" for i in range(len(labels))]
    return VideoScores(videos, labels, rows, classes=("a", "b", "c"))


def test_half_of_the_samples_are_wrong_and_no_confusion_hides_another() -> None:
    labels = [0, 0, 0, 1, 2, 2, 2, 2]
    scores = _scores(labels, [1, 1, 1, 2, 2, 2, 2, 2], [9, 8, 7, 1, 1, 1, 1, 1])
    chosen = choose_samples(scores, 4, seed=0)
    assert chosen[:2] == [0, 3]  # a for b comes once before it comes twice
    assert all(scores.labels[place] == 2 for place in chosen[2:])
    assert len(set(chosen)) == 4
    assert choose_samples(scores, 4, seed=0) == chosen
    assert sorted(choose_samples(scores, 100, seed=0)) == list(range(8))
    assert len(choose_samples(scores, 7, seed=0)) == 7
    assert choose_samples(scores, 0, seed=0) == []


def test_videos_without_scores_are_no_samples() -> None:
    scores = _scores([0, 1], [1, 1], [2, 1]).with_unreadable({"a video": 0})
    chosen = choose_samples(scores, 10, seed=0)
    assert sorted(scores.videos[place] for place in chosen) == ["v0", "v1"]


def test_samples_of_strangers_stay_in_their_folder_and_broken_ones_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert load_samples(tmp_path) == []
    said = {"prediction": "a", "probability": 1.0, "of_label": 1.0}
    sample = {"video": "v", "label": "a", "predictions": {NET: said}, "film": "1.mp4"}
    file = tmp_path / "samples.json"
    file.write_text(json.dumps([sample | {"picture": "../../secret.jpg"}]))
    (read,) = load_samples(tmp_path)
    assert read.picture == tmp_path / "secret.jpg"
    whole = sample | {"picture": "1.jpg"}
    for broken in (
        sample,
        whole | {"predictions": {"motion": said}},
        whole | {"predictions": {NET: said | {"probability": "high"}}},
        whole | {"predictions": {NET: {"prediction": "a"}}},
    ):
        caplog.clear()
        file.write_text(json.dumps([broken]))
        assert load_samples(tmp_path) == []
        assert "samples.json cannot be read" in caplog.text
