"""Every command sees the same frames of a video, however the file came about."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from src import evaluate, extract_flow, features, predict
from src.data.dataset import TrainView, read_view
from src.data.transforms import CornerJitterCrop
from src.data.verification.inspection import check_file
from src.evaluation.scores import VideoScores
from src.media.frames_in_order import read_in_order
from src.media.images import open_images
from src.media.video_file import VideoFile
from src.prediction.windows import HeldFrames
from tests.builders import random_checkpoint, stored_flow
from tests.media.odd_videos import FRAMES, ODD, TURNS, turned, write

# By name: how it is made, how many frames are shown, and whether it is turned by a quarter.
CLIPS: dict[str, tuple[Callable[[Path], Path], int, bool]] = {
    **{
        f"{turn.replace(' ', '_')}.mp4": (
            partial(turned, turn=TURNS[turn][0]),
            FRAMES,
            TURNS[turn][0][0] == 0,
        )
        for turn in TURNS
    },
    **{name: (make, len(shown), False) for name, (make, shown) in ODD.items()},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips as videos of two classes."""
    root = tmp_path_factory.mktemp("videos")
    rows = [
        ("path", "class", "split"),
        ("class 0/plain.mp4", "class 0", "train"),
        ("class 1/plain2.mp4", "class 1", "train"),
    ]
    for path, *_ in rows[1:]:
        write(root / path)
    for number, (name, (make, *_)) in enumerate(CLIPS.items()):
        label = f"class {number % 2}"
        rows.append((f"{label}/{name}", label, "test"))
        make(root / rows[-1][0])
    with (root / "lists.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.mark.slow
def test_scores_are_those_of_predict_and_of_features(
    root: Path, call: Callable[..., int], tmp_path: Path
) -> None:
    overrides = ("experiment=two_stream_folder", f"data.dataset.root={root}", "data.short_side=48")
    lists = f"data.dataset.lists={root / 'lists.csv'}"
    checkpoint = random_checkpoint(tmp_path / "a.ckpt", "appearance", *overrides, lists)
    ckpt = f"ckpt_path={checkpoint}"
    on_cpu = ("trainer.accelerator=cpu", "+data.loader.num_workers=0")
    assert call(evaluate.main, ckpt, f"output={tmp_path / 'scores.csv'}", *on_cpu) == 0
    scores = VideoScores.load(tmp_path / "scores.csv")
    assert sorted(scores.videos) == sorted(Path(name).stem for name in CLIPS)

    assert (
        call(predict.main, ckpt, f"input={root}", f"output={tmp_path / 'p.json'}", "top_k=2") == 0
    )
    predicted = {
        (Path(row["video"]).stem, row["label"]): row["probability"]
        for row in json.loads((tmp_path / "p.json").read_text())
    }
    for video, row in zip(scores.videos, scores.scores.softmax(1).tolist(), strict=True):
        for label, probability in zip(scores.classes, row, strict=True):
            assert predicted[video, label] == pytest.approx(probability, abs=1e-4)

    seen = [tmp_path / "listed.npz", tmp_path / "named.npz"]
    assert call(features.main, ckpt, f"output={seen[0]}", *on_cpu) == 0
    assert call(features.main, ckpt, f"input={root}", f"output={seen[1]}", on_cpu[0]) == 0
    listed, named = map(np.load, seen)
    stems = [Path(video).stem for video in named["video"].tolist()]
    for video, vector in zip(listed["video"].tolist(), listed["appearance"], strict=True):
        np.testing.assert_allclose(named["appearance"][stems.index(video)], vector, rtol=1e-4)


def test_training_clips_are_cut_out_of_the_frames_that_predict_watches(root: Path) -> None:
    view = TrainView(4, (1, 4), CornerJitterCrop(40), 32, short_side=48, hflip=True)
    for path in sorted(root.glob("*/*")):
        watched = HeldFrames([frame.image for frame in read_in_order(str(path))])
        for seed in range(3):
            clip, expected = (
                read_view(source, None, view, 4, np.random.default_rng(seed))["rgb"]
                for source in (VideoFile(path), watched)
            )
            assert (clip == expected).all(), path


def test_flow_and_checks_are_of_the_frames_that_are_shown(
    root: Path, call: Callable[..., int], tmp_path: Path
) -> None:
    flow = ("flow=dis", "flow.parameters.finest_scale=0", "flow.short_side=32", "workers=1")
    assert call(extract_flow.main, f"input={root}", f"output={tmp_path}", *flow) == 0
    assert len(open_images(tmp_path).videos("u")) == len(CLIPS) + 2
    for name, (_, count, quarter) in CLIPS.items():
        (path,) = root.glob(f"*/{name}")
        video = VideoFile(path)
        (image,) = video.rgb([0])
        assert (video.num_frames, image.shape) == (count, (64, 48, 3) if quarter else (48, 64, 3))
        stored = stored_flow(tmp_path, path.stem)
        (field,) = stored.flow([0])
        assert stored.num_fields == count - 1
        assert field[0].shape == ((43, 32) if quarter else (32, 43))
        check = check_file(path, "auto", full=True)
        assert (check.count, check.size) == (count, image.shape[:2])
        assert list(check.problems) == ([] if video.stated == count else ["stated"])
