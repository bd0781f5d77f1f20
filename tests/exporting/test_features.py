"""Features, which the classifiers turn into the scores of the same videos."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src import evaluate, features
from src.evaluation.evaluate import load_module
from src.evaluation.scores import VideoScores
from src.experiment.run_dir import StageDir
from src.exporting.features import NO_LABEL, Features

Call = Callable[..., int]


def classified(checkpoint: Path, stream: str, vectors: torch.Tensor) -> torch.Tensor:
    """Scores (N, K) out of features (N, C), by the stream's classifier."""
    module, _ = load_module(str(checkpoint))
    name = f"{stream}.fc" if hasattr(module.net, stream) else "fc"
    with torch.inference_mode():
        return module.net.get_submodule(name)(vectors)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["motion", "joint_pooled"])
def test_classifiers_turn_them_into_scores(
    stage: str, finished_run: Path, call: Call, tmp_path: Path
) -> None:
    trained, output = StageDir(finished_run / stage), tmp_path / "features.npz"
    assert call(features.main, f"ckpt_path={trained.checkpoint}", f"output={output}") == 0
    found = np.load(output)
    streams = ["motion"] if stage == "motion" else ["appearance", "motion"]
    assert (
        json.loads(str(found["about"]))["protocol"] == "11 full frames at 64 px, mean of features"
    )
    for stream in streams:
        scores = VideoScores.load(trained.scores(stream if len(streams) > 1 else None))
        assert found["video"].tolist() == scores.videos
        assert found["label"].tolist() == scores.labels
        assert tuple(found["class_names"]) == scores.classes
        vectors = torch.from_numpy(found[stream])
        given = classified(trained.checkpoint, stream, vectors)
        assert_close(given, scores.scores, rtol=1e-4, atol=1e-6)
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.slow
def test_other_lists_and_protocols(finished_run: Path, call: Call, tmp_path: Path) -> None:
    checkpoint, output = finished_run / "joint" / "last.ckpt", tmp_path / "features.npz"
    views = (
        "protocol=ten_crops",
        "protocol.average_over=probabilities",
    )  # there is no softmax of features
    both = ("lists=[train,test]", f"output={output}")
    assert call(features.main, f"ckpt_path={checkpoint}", *views, *both) == 0
    found = np.load(output)
    assert found["list"].tolist() == ["train"] * 16 + ["test"] * 8
    about = json.loads(str(found["about"]))
    assert about["protocol"] == "11 frames x 5 crops of 56 px at 64 px, mean of features"
    csv = tmp_path / "scores.csv"
    assert call(evaluate.main, f"ckpt_path={checkpoint}", views[0], f"output={csv}") == 0
    scores = VideoScores.load(csv)
    assert found["video"][16:].tolist() == scores.videos
    assert found["label"][16:].tolist() == scores.labels
    each = [
        classified(checkpoint, stream, torch.from_numpy(found[stream][16:]))
        for stream in ("appearance", "motion")
    ]
    assert_close(torch.stack(each).mean(0), scores.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_files_from_anywhere(
    finished_run: Path,
    tiny: tuple[str, ...],
    call: Call,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One that is broken is skipped, and told."""
    checkpoint, output = finished_run / "joint" / "last.ckpt", tmp_path / "features.npz"
    root = Path(tiny[-1].split("=")[1])
    video = sorted(root.glob("videos/*/*.mp4"))[-1]
    (tmp_path / "text.mp4").write_text("no video")
    named = f"input=[{video},{tmp_path}]"
    assert call(features.main, f"ckpt_path={checkpoint}", named, f"output={output}") == 1
    assert "text.mp4" in capfd.readouterr().err
    found = np.load(output)
    assert found["video"].tolist() == [str(video)]
    assert found["label"].tolist() == [-1]
    listed = tmp_path / "listed.npz"
    lists = "lists=[train,test]"
    assert call(features.main, f"ckpt_path={checkpoint}", lists, f"output={listed}") == 0
    same = np.load(listed)
    (row,) = np.flatnonzero(same["video"] == video.stem)
    np.testing.assert_allclose(  # flow is stored as JPEG there
        found["appearance"][0], same["appearance"][row], rtol=0.2, atol=0.05
    )


def test_a_broken_video_of_a_list_is_left_out_and_told(
    finished_run: Path,
    tiny: tuple[str, ...],
    call: Call,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root, output = tmp_path / "data", tmp_path / "features.npz"
    shutil.copytree(tiny[-1].split("=")[1], root)
    broken = sorted(root.glob("videos/*/*.mp4"))[-1]
    broken.write_text("no video")
    arguments = (f"output={output}", "lists=[train,test]", f"+data.dataset.root={root}")
    checkpoint = f"ckpt_path={finished_run / 'appearance' / 'last.ckpt'}"
    assert call(features.main, checkpoint, *arguments) == 1
    (line,) = (x for x in capfd.readouterr().err.splitlines() if x.startswith("skipped:"))
    assert broken.stem in line
    found = np.load(output)["video"].tolist()
    assert len(found) == 23
    assert broken.stem not in found


def test_nothing_is_lost_by_a_stop_while_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "features.npz"
    output.write_text("earlier")
    made = Features({"protocol": "none"}, ["walk"])
    made.rows.append(("video", "test", 0, {"appearance": torch.ones(3)}))

    def stopped(file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", stopped)
        with pytest.raises(KeyboardInterrupt):
            made.save(output)
    assert output.read_text() == "earlier"
    made.save(output)
    assert np.load(output)["appearance"].tolist() == [[1, 1, 1]]


def test_a_name_of_another_encoding_loses_nothing(tmp_path: Path) -> None:
    vectors = {"appearance": torch.ones(3)}
    made = Features({"protocol": "none"}, ["walk"], [("caf\udce9.mp4", "input", NO_LABEL, vectors)])
    made.save(tmp_path / "a.npz")
    assert np.load(tmp_path / "a.npz")["video"].tolist() == ["caf\udce9.mp4"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["output=features.csv"], "output=features.csv: needs a name that ends in .npz"),
        (["lists=[val]"], "this checkpoint's data have no val videos"),
        (["lists=train"], "lists=train: needs a list, [train]"),
        (["lists=[]"], "lists=[]: choose from train, val, test"),
        (["input=rtsp://camera/live"], "rtsp://camera/live has no end"),
        (["+data.color=red"], "data.color is not in the checkpoint's config"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    named: str,
    finished_run: Path,
    call: Call,
    capfd: pytest.CaptureFixture[str],
) -> None:
    checkpoint = f"ckpt_path={finished_run / 'joint' / 'last.ckpt'}"
    assert call(features.main, checkpoint, *arguments) == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error:"))
    assert named in line
