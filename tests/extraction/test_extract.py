import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.extraction.extract import extract_flow
from src.flow.algorithm import Fields, FlowAlgorithm, Frames
from src.flow.computed import OnTheFlyFlow
from src.flow.settings import FILE_NAME, FlowSettings
from src.media.find_videos import find_videos
from src.media.skipped import SOURCES
from src.media.video_file import CHUNK, VideoFile
from src.utils.errors import UserError
from tests.builders import (
    CLIPS,
    dequantize,
    fields_of,
    moving_texture,
    stored_flow,
    write_video,
)

DIS = FlowSettings("dis", {"finest_scale": 0}, short_side=64)
WORK = ".flow.partial"  # parts of videos under way
ODD_NAME = "a#(b)&!;[1] c.d"  # HMDB51 has such names


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "walk" / "right.mp4", moving_texture((3.0, 0.0), frames=5))
    write_video(folder / "walk" / "down.avi", moving_texture((0.0, 2.0), frames=2), codec="mpeg4")
    write_video(folder / "run" / f"{ODD_NAME}.mp4", moving_texture((-2.0, 1.0), frames=CHUNK + 2))
    return find_videos(folder)


@pytest.fixture(scope="module")
def extracted(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flow that tests only read."""
    output = tmp_path_factory.mktemp("flow") / "made" / "on the way"
    result = extract_flow(videos, output, DIS, workers=2)
    assert (result.done, result.reused, result.failed) == (3, 0, {})
    assert result.frames == 5 + 2 + CHUNK + 2
    assert result.seconds > 0
    return output


@pytest.fixture
def output(extracted: Path, tmp_path: Path) -> Path:
    """Flow that a test may damage."""
    return shutil.copytree(extracted, tmp_path / "flow")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_released_layout(extracted: Path) -> None:
    assert {entry.name for entry in extracted.iterdir()} == {"u", "v", SOURCES, FILE_NAME}
    for component in "uv":
        counts = {"right": 4, "down": 1, ODD_NAME: CHUNK + 1}
        assert {entry.name for entry in (extracted / component).iterdir()} == set(counts)
        for name, count in counts.items():
            files = sorted(file.name for file in (extracted / component / name).iterdir())
            assert files == [f"frame{i:06d}.jpg" for i in range(1, count + 1)]
    image = cv2.imread(str(extracted / "u" / "right" / "frame000001.jpg"), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.shape == (64, 96)  # one channel: grey
    assert FlowSettings.load(extracted) == DIS


@pytest.mark.parametrize(
    ("name", "shift"), [("right", (3.0, 0.0)), ("down", (0.0, 2.0)), (ODD_NAME, (-2.0, 1.0))]
)
def test_sign_and_order(extracted: Path, name: str, shift: tuple[float, float]) -> None:
    flow = stored_flow(extracted, name)
    fields = dequantize(fields_of(flow, range(flow.num_fields)))[:, 12:-12, 12:-12]
    # Right is u > 0 and down is v > 0, in every field.
    for field in fields.reshape(len(fields), -1, 2):
        np.testing.assert_allclose(np.median(field, axis=0), shift, atol=0.35)


def test_is_what_is_computed_on_the_spot(extracted: Path, videos: list[Path]) -> None:
    """Also across the border between two chunks of frames."""
    video = next(video for video in videos if video.stem == ODD_NAME)
    computed = OnTheFlyFlow(VideoFile(video), DIS, DIS.make())
    stored = stored_flow(extracted, ODD_NAME)
    assert stored.num_fields == computed.num_fields
    indices = range(stored.num_fields)
    difference = fields_of(stored, indices).astype(int) - fields_of(computed, indices)
    assert np.abs(difference).mean() < 0.5  # JPEG only


def test_the_order_of_videos_changes_nothing(
    extracted: Path, videos: list[Path], tmp_path: Path
) -> None:
    extract_flow(videos[::-1], tmp_path, DIS, workers=1)
    assert contents(tmp_path) == contents(extracted)


def test_what_is_there_is_left_alone(output: Path, videos: list[Path]) -> None:
    marked = output / "u" / "right" / "frame000001.jpg"
    marked.write_bytes(b"mark")
    result = extract_flow(videos, output, DIS, workers=1)
    assert (result.done, result.reused, result.frames) == (0, 3, 0)
    assert marked.read_bytes() == b"mark"


def test_goes_on_after_a_kill(extracted: Path, output: Path, videos: list[Path]) -> None:
    before = contents(extracted)
    shutil.rmtree(output / "v" / "right")  # killed between u and v
    for component in "uv":
        shutil.rmtree(output / component / ODD_NAME)  # killed within a video
        partial = output / WORK / ODD_NAME / component
        partial.mkdir(parents=True)
        (partial / "frame000001.jpg").write_bytes(b"half a file")
        (partial / "frame009999.jpg").write_bytes(b"of a longer video")
    result = extract_flow(videos, output, DIS, workers=2)
    assert (result.done, result.reused) == (2, 1)
    assert contents(output) == before


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (FlowSettings("tvl1", {}, short_side=64), "algorithm dis there, tvl1 now"),
        (FlowSettings("dis", {"finest_scale": 1}, short_side=64), "finest_scale 0 there, 1 now"),
        (FlowSettings("dis", {"finest_scale": 0}, short_side=128), "short_side 64 there, 128 now"),
        (FlowSettings("dis", {"finest_scale": 0}, 64, bound=10.0), "bound 20.0 there, 10.0 now"),
    ],
)
def test_refuses_a_mix(
    output: Path, videos: list[Path], settings: FlowSettings, named: str
) -> None:
    before = contents(output)
    shutil.rmtree(output / "u" / "right")  # there is something to do
    del before[f"u{os.sep}right{os.sep}frame000001.jpg"]
    with pytest.raises(UserError, match=named):
        extract_flow(videos, output, settings, workers=1)
    assert before.items() >= contents(output).items()  # nothing was written


def test_refuses_flow_of_unknown_settings(output: Path, videos: list[Path]) -> None:
    (output / FILE_NAME).unlink()
    with pytest.raises(UserError, match=f"without {FILE_NAME}"):
        extract_flow(videos, output, DIS, workers=1)
    assert not (output / FILE_NAME).exists()


def test_a_broken_video_is_reported_and_the_rest_done(videos: list[Path], tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video" * 1000)
    still = write_video(tmp_path / "still.mp4", moving_texture((0.0, 0.0), frames=1))
    result = extract_flow([garbage, still, *videos], tmp_path / "flow", DIS, workers=2)
    assert result.done == 3
    assert result.failed.keys() == {"garbage", "still"}
    assert str(garbage) in result.failed["garbage"]
    assert "single frame" in result.failed["still"]
    for component in "uv":
        there = {entry.name for entry in (tmp_path / "flow" / component).iterdir()}
        assert there == {video.stem for video in videos}
    assert {entry.name for entry in (tmp_path / "flow").iterdir()} == {
        *("u", "v", SOURCES, FILE_NAME, "failed.csv")
    }
    with (tmp_path / "flow" / "failed.csv").open(newline="") as table:
        rows = list(csv.reader(table))
    expected = [[str(garbage), result.failed["garbage"]], [str(still), result.failed["still"]]]
    assert rows[0] == ["video", "reason"]
    assert sorted(rows[1:]) == sorted(expected)
    extract_flow(videos, tmp_path / "flow", DIS, workers=1)
    assert not (tmp_path / "flow" / "failed.csv").exists()


@pytest.mark.parametrize("again", ["walk/a.mp4", "walk/A.avi"])
def test_two_videos_of_one_name_are_refused_before_any_work(again: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"run/a\.avi and {again}"):
        extract_flow([Path("run/a.avi"), Path(again)], tmp_path / "flow", DIS, workers=1)
    assert not (tmp_path / "flow").exists()


def test_a_wrong_algorithm_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tv_l1"):
        extract_flow([Path("a.avi")], tmp_path / "flow", FlowSettings("tv_l1"), workers=1)
    assert not (tmp_path / "flow").exists()


def test_an_output_that_cannot_be_made(videos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        extract_flow(videos, tmp_path / "file" / "flow", DIS, workers=1)


def test_workers_are_counted_from_one(videos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workers=0"):
        extract_flow(videos, tmp_path, DIS, workers=0)


class DeadlySettings(FlowSettings):
    """Ends a worker process the way that the system does when memory runs out."""

    def make(self, device: str = "cpu") -> FlowAlgorithm:
        def fields(first: Frames, second: Frames) -> Fields:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError

        return FlowAlgorithm(fields)


@pytest.mark.slow
def test_a_worker_that_dies_gives_one_line(videos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a worker process died.* right"):
        extract_flow(
            [video for video in videos if video.stem == "right"],
            tmp_path,
            DeadlySettings("dis", {"finest_scale": 0}, short_side=64),
            workers=1,
        )
    assert not (tmp_path / WORK).exists()
    assert extract_flow(videos, tmp_path, DIS, workers=2).done == 3


# A job started in the background of a script ignores SIGINT, and so would what it starts.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from src.extraction.extract import extract_flow
from src.flow.settings import FlowSettings
video, output = map(Path, sys.argv[1:])
extract_flow([video], output, FlowSettings("tvl1", short_side=512), workers=1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_stops_promptly(tmp_path: Path) -> None:
    """Ctrl-C ends the workers too, in the middle of a video, and leaves no parts."""
    video = write_video(tmp_path / "long.mp4", moving_texture((1.0, 0.0), frames=200))
    output = tmp_path / "flow"
    command = [sys.executable, "-c", SCRIPT, str(video), str(output)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(output.glob(f"{WORK}/long/u/*.jpg")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            stopped = time.monotonic()
            process.send_signal(signal.SIGINT)
            # Every process that it started holds its stderr: this waits for all of them.
            process.communicate(timeout=30)
            assert time.monotonic() - stopped < 15
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert [file.name for file in output.iterdir()] == [FILE_NAME]


def test_find_videos(tmp_path: Path) -> None:
    for name in ("b/2.AVI", "b/1.mp4", "a/x.webm", "a/.x.mp4", ".partial/y.mp4", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(video.relative_to(tmp_path).as_posix()) for video in find_videos(tmp_path)]
    assert found == ["a/x.webm", "b/1.mp4", "b/2.AVI"]
    assert find_videos(tmp_path / "b" / "1.mp4") == [tmp_path / "b" / "1.mp4"]


def test_other_files_are_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.3gp", "b.MTS", "c.gif", "notes.txt", "more/x.TXT", "more/LICENSE", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert [video.name for video in find_videos(tmp_path)] == ["a.3gp", "b.MTS", "c.gif"]
    (message,) = caplog.messages
    assert message == (f"{tmp_path}: 3 skipped that are no videos: .txt (2), without ending (1)")


def test_find_videos_names_an_empty_or_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no video in"):
        find_videos(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        find_videos(tmp_path / "absent")


def test_command(videos: list[Path], tmp_path: Path) -> None:
    """Config groups, overrides, summary and exit status, as a user has them in a job array."""
    source, output = tmp_path / "videos", tmp_path / "flow"
    source.mkdir()
    right = next(video for video in videos if video.stem == "right")
    for name in ("b.mp4", "right.mp4"):
        shutil.copy(right, source / name)
    (source / "a.mp4").write_bytes(b"no video" * 1000)
    overrides = ["flow=dis", "flow.parameters.finest_scale=0", "flow.short_side=64", "workers=1"]
    command = [sys.executable, "-m", "src.extract_flow", f"input={source}", f"output={output}"]
    command += ["format=zip", "shard=slurm", "device=cpu", *overrides]
    array = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
    root = Path(__file__).parents[2]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=root, check=False, env=os.environ | array
    )
    assert run.returncode == 1, run.stderr
    assert "flow of 1 videos extracted, 0 already there, 1 failed; 5 frames" in run.stdout
    assert "failed: a: video" in run.stdout
    assert "/2 videos, " in run.stdout  # a line of log, with the time left
    assert "Traceback" not in run.stderr
    settings = FlowSettings("dis", {"preset": "medium", "finest_scale": 0}, short_side=64)
    assert FlowSettings.load(output) == settings
    files = {file.name for file in output.iterdir()}
    assert files == {FILE_NAME, "flow-1-of-2.zip", "failed-1-of-2.csv"}
    assert stored_flow(output, "right").num_fields == 4


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not part of the project")
def test_real_clips(tmp_path: Path) -> None:
    names = ("test.avi", "part_0.mp4", "unordered.mov", "corrupted.mp4")
    result = extract_flow([CLIPS / name for name in names], tmp_path, DIS, workers=2)
    assert result.failed.keys() == {"corrupted"}
    counts = {name: stored_flow(tmp_path, name).num_fields for name in ("test", "part_0")}
    assert counts == {"test": 163, "part_0": 31}
    assert stored_flow(tmp_path, "unordered").num_fields == 3
    field = fields_of(stored_flow(tmp_path, "part_0"), [0])
    assert field.shape == (1, 64, 85, 2)
    assert field.std() > 0  # something moves
