"""Predictions of windows and of whole videos, annotated copies, and what goes wrong with a file."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from src import predict
from src.media.frames_in_order import TimedFrame, read_in_order
from src.media.sources import Uint8
from src.prediction import predict as prediction
from src.prediction.inputs import class_folders, find_inputs, output_names
from src.prediction.output import draw, legible
from src.prediction.windows import POINTS, Timeline
from tests.builders import moving_texture, write_video

Call = Callable[..., int]


@pytest.fixture
def checkpoint(finished_run: Path) -> str:
    return f"ckpt_path={finished_run / 'joint' / 'last.ckpt'}"


@pytest.fixture
def video(tiny: tuple[str, ...]) -> Path:
    """32 frames at 25 per second."""
    root = Path(tiny[-1].split("=")[1])
    return sorted(root.glob("videos/*/*.mp4"))[-1]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def frames_in(path: Path) -> list[tuple[float, Uint8]]:
    with av.open(str(path)) as container:
        return [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def test_a_window_longer_than_the_video_is_the_video(
    checkpoint: str, video: Path, call: Call, tmp_path: Path
) -> None:
    whole, window = tmp_path / "whole.json", tmp_path / "window.json"
    arguments = (checkpoint, f"input={video}", "top_k=8")
    assert call(predict.main, *arguments, f"output={whole}") == 0
    assert call(predict.main, *arguments, f"output={window}", "window=60") == 0
    expected, found = json.loads(whole.read_text()), json.loads(window.read_text())
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    probabilities = [row["probability"] for row in expected]
    assert [row["probability"] for row in found] == pytest.approx(probabilities, abs=1e-5)
    assert {(row["start"], row["end"]) for row in found} == {(0, 1.28)}


@pytest.mark.slow
def test_windows_with_plot_and_annotated_copy(
    checkpoint: str, video: Path, call: Call, tmp_path: Path
) -> None:
    output = tmp_path / "rows.csv"
    folders = (f"annotate={tmp_path}", f"plot={tmp_path}", f"output={output}")
    arguments = (checkpoint, f"input={video}", "window=0.6", "step=0.4", "top_k=2", *folders)
    assert call(predict.main, *arguments) == 0
    rows = rows_of(output)
    assert list(rows[0]) == ["video", "start", "end", "rank", "label", "probability"]
    spans = [(float(row["start"]), float(row["end"])) for row in rows[::2]]
    assert spans == [(0, 0.6), (0.4, 1.0), (0.68, 1.28)]
    assert (tmp_path / f"{video.stem}.png").read_bytes().startswith(b"\x89PNG")
    copy = frames_in(tmp_path / f"{video.stem}_annotated.mp4")
    assert [time for time, _ in copy] == pytest.approx([i / 25 for i in range(32)], abs=1e-3)
    assert copy[0][1].shape == (240, 240, 3)


def test_one_broken_file_does_not_stop_the_others(
    checkpoint: str, video: Path, call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    still = write_video(tmp_path / "still.mp4", moving_texture((0.0, 0.0), 1, (64, 64)))
    output = tmp_path / "rows.csv"
    named = f"input=[{tmp_path / 'absent.mp4'},{tmp_path / 'text.mp4'},{still},{video}]"
    for more in ([], ["window=1"]):
        assert call(predict.main, checkpoint, named, f"output={output}", "top_k=1", *more) == 1
        assert {row["video"] for row in rows_of(output)} == {str(video)}
        error = capfd.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("failed:")]
        assert len(lines) == 3
        assert "absent.mp4 does not exist" in lines[0]
        assert "text.mp4 cannot be" in lines[1]
        assert f"{still}: a video of a single frame has no optical flow" in lines[2]


@pytest.mark.parametrize(("stream", "status"), [(True, 0), (False, 130)])
def test_ctrl_c_leaves_what_was_found(
    stream: bool,
    status: int,
    checkpoint: str,
    video: Path,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream ends by it; a file is stopped."""

    def stopped(_: str) -> Iterator[TimedFrame]:
        for frame in read_in_order(str(video)):
            if frame.index == 20:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(prediction, "read_in_order", stopped)
    source, output = "rtsp://nowhere/live" if stream else video, tmp_path / "rows.json"
    arguments = (checkpoint, f"input={source}", f"output={output}", f"annotate={tmp_path}")
    assert call(predict.main, *arguments, "window=0.4", "step=0.4", "top_k=1") == status
    assert [row["start"] for row in json.loads(output.read_text())] == [0]
    (copy,) = tmp_path.glob("*_annotated.mp4")
    assert len(frames_in(copy)) == 20


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["input=rtsp://camera/live"], "add window=<seconds>"),
        (["input=VIDEO", "window=0"], "window=0: needs a number above 0"),
        (["input=VIDEO", "step=1"], "step is of windows"),
        (["input=VIDEO", "plot=out"], "plot is of windows"),
        (["input='absent/*.mp4'"], "matches no file"),
        (["input=[]"], "names no video"),
    ],
)
def test_mistakes_show_before_the_checkpoint_is_read(
    arguments: list[str], named: str, video: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("VIDEO", str(video)) for argument in arguments]
    assert call(predict.main, "ckpt_path=gone.ckpt", *arguments) == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error:"))
    assert named in line


def test_an_annotated_copy_never_replaces_an_input(
    call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    still = np.zeros((2, 16, 16, 3), np.uint8)
    for name in ("a", "a_annotated"):
        write_video(tmp_path / f"{name}.mp4", still)
    arguments = ("ckpt_path=gone.ckpt", f"input={tmp_path}", f"annotate={tmp_path}")
    assert call(predict.main, *arguments) == 1
    assert "would replace the input" in capfd.readouterr().err


def test_patterns_folders_and_names(tmp_path: Path) -> None:
    for name in ("a/x.mp4", "a/b/x.avi", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    both = [str(tmp_path / "a/b/x.avi"), str(tmp_path / "a/x.mp4")]
    assert find_inputs([f"{tmp_path}/**/x.*"]) == (both, {})
    assert find_inputs([str(tmp_path), both[0]]) == (both, {})  # each video once
    assert list(output_names(both).values()) == ["x", "x_2"]
    assert output_names(["rtsp://user:secret@host/live"]).popitem()[1] == "rtsp_host_live"


def test_long_names_are_cut_and_stay_apart() -> None:
    """Signed addresses are longer than the names that file systems take, and differ at the end."""
    signed = [f"https://host/a.mp4?signature={'f' * 300}{end}" for end in "12"]
    names = output_names([*signed, f"{'é' * 120}.mp4"]).values()
    assert len(set(names)) == 3
    assert all(len(f"{name}_annotated.mp4".encode()) <= 255 for name in names)


def test_a_long_timeline_is_thinned_out() -> None:
    timeline = Timeline()
    for number in range(50_000):
        timeline.add(number, np.array([number, 1], np.float32))
    times, values = timeline.points()
    assert POINTS <= len(times) <= 2 * POINTS
    np.testing.assert_allclose(values[:, 0], times, rtol=1e-5)
    assert np.all(values[:, 1] == 1)


def test_drawing_on_odd_and_small_frames() -> None:
    for size in ((241, 333), (7, 5), (600, 301)):
        image = legible(np.full((*size, 3), 100, np.uint8))
        assert image.shape[0] % 2 == image.shape[1] % 2 == 0
        assert min(image.shape[:2]) >= 240
        plain = image.copy()
        draw(image, [("run", 0.9), ("jump", 0.1)], np.zeros((64, 48, 3), np.uint8))
        changed = (image != plain).any(axis=2)
        assert changed[-20:].any()
        assert changed[:20, image.shape[1] // 2 :].any()


def test_folders_that_are_called_as_classes(tmp_path: Path) -> None:
    for name in ("run", "walk"):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / f"{name}.mp4").touch()
    (tmp_path / "b.mp4").touch()
    both = [str(tmp_path / "b.mp4"), str(tmp_path / "a")]
    assert class_folders(both, ["jump", "run", "walk"]) == both[1]
    assert class_folders(both, ["jump", "run"]) is None
    assert class_folders(["rtsp://camera/live", str(tmp_path / "absent")], ["run"]) is None
    (tmp_path / "a" / "alone.mp4").touch()
    assert class_folders(both, ["jump", "run", "walk"]) is None
