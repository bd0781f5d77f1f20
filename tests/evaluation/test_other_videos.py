"""`evaluate videos=`: a checkpoint on labelled videos that no list of its dataset has."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src import evaluate
from src.evaluation.scores import VideoScores

Call = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def videos(
    finished_run: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The test videos in class folders of their own, but for one class."""
    root, place = Path(tiny[-1].partition("=")[2]), tmp_path_factory.mktemp("new") / "my clips"
    with (root / "test.csv").open(newline="") as file:
        without, *rows = csv.DictReader(file)
    rows = [row for row in rows if row["class"] != without["class"]]
    assert rows
    for row in rows:
        target = place / row["class"] / Path(row["video"]).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / row["video"], target)
    return place


def by_video(scores: VideoScores) -> dict[str, list[float]]:
    return dict(zip(scores.videos, scores.scores.tolist(), strict=True))


def test_the_scores_are_those_of_the_test_list(
    videos: Path,
    finished_run: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    call: Call,
    capsys: Captured,
) -> None:
    """With the flow that is there to the last digit, and about so with flow that is computed."""
    listed = by_video(VideoScores.load(finished_run / "joint" / "scores.csv"))
    given = (f"ckpt_path={finished_run / 'joint' / 'last.ckpt'}", f"videos={videos}")
    flow = Path(tiny[-1].partition("=")[2]) / "flow"
    assert call(evaluate.main, *given, f"flow={flow}", f"output={tmp_path / 'a.csv'}") == 0
    shown = capsys.readouterr().out
    assert f"; on the videos of {videos}" in shown
    scores = VideoScores.load(tmp_path / "a.csv")
    count = sum(1 for _ in videos.rglob("*.mp4"))
    assert len(scores.videos) == count < len(listed)
    assert f" {count} " in shown
    assert scores.classes == VideoScores.load(finished_run / "joint" / "scores.csv").classes
    for video, row in by_video(scores).items():
        assert row == pytest.approx(listed[video], abs=1e-5)
    with (tmp_path / "a.confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["label", *scores.classes]
    counts = torch.tensor([[int(cell) for cell in row[1:]] for row in rows])
    right = (scores.scores.argmax(1) == torch.tensor(scores.labels)).sum()
    assert [counts.sum().item(), counts.diagonal().sum().item()] == [count, right.item()]
    assert call(evaluate.main, *given) == 0
    beside = finished_run / "joint" / "evaluation" / "my clips" / "scores.csv"
    computed = by_video(VideoScores.load(beside))
    for video, row in computed.items():
        assert row == pytest.approx(listed[video], abs=0.2)


def test_a_file_of_paths_and_classes(
    videos: Path, finished_run: Path, tmp_path: Path, call: Call, capsys: Captured
) -> None:
    """From the file's folder on; with a column split its test videos, by any protocol."""
    paths = sorted(path.relative_to(videos.parent) for path in videos.rglob("*.mp4"))
    rows = [
        f"{path},{path.parts[1]},{'train' if n == 1 else 'test'}" for n, path in enumerate(paths)
    ]
    file = videos.parent / "list.csv"
    file.write_text("\n".join(["path,class,split", *rows]))
    given = f"ckpt_path={finished_run / 'appearance' / 'last.ckpt'}", f"videos={file}"
    output = f"output={tmp_path / 'scores.csv'}"
    assert call(evaluate.main, *given, output, "protocol=center_crop") == 0
    assert "center crops" in capsys.readouterr().out
    assert {*VideoScores.load(tmp_path / "scores.csv").videos} == {
        path.stem for n, path in enumerate(paths) if n != 1
    }
    assert call(evaluate.main, *given, f"flow={videos}") == 1
    assert "the network sees no flow, leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "told"),
    [
        ("red_lift/x.mp4", "classes that the network does not know: red_lift"),
        ("x.mp4", "is in no folder of a class"),
        ("", "no video in videos="),
        (None, "does not exist"),
    ],
)
def test_what_is_no_test_set(
    make: str | None, told: str, finished_run: Path, tmp_path: Path, call: Call, capsys: Captured
) -> None:
    place = tmp_path / "videos"
    if make is not None:
        (place / make).parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True)
        if make:
            (place / make).touch()
    given = f"ckpt_path={finished_run / 'appearance' / 'last.ckpt'}"
    assert call(evaluate.main, given, f"videos={place}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_flow_of_no_videos(finished_run: Path, call: Call, capsys: Captured) -> None:
    given = f"ckpt_path={finished_run / 'joint' / 'last.ckpt'}"
    assert call(evaluate.main, given, "flow=somewhere") == 1
    assert "flow=somewhere is of other videos" in capsys.readouterr().err
