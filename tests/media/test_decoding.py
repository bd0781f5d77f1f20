"""Which frames a video has, and which way up they are: the same for every reader."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.media.decoding import open_video, upright
from src.media.frames_in_order import read_in_order
from src.media.video_file import DECODERS, VideoFile
from src.utils.errors import UserError
from tests.builders import frames_of
from tests.media.odd_videos import (
    FRAMES,
    ODD,
    TURNS,
    dropped_frames,
    stream_joined_late,
    turned,
    write,
)


def images(path: Path, decoder: str = "auto") -> np.ndarray:
    """All frames, which both readers agree about."""
    video = VideoFile(path, decoder)
    frames = frames_of(video, range(video.num_frames))
    np.testing.assert_array_equal([frame.image for frame in read_in_order(str(path))], frames)
    for index in (0, len(frames) // 2, len(frames) - 1):
        np.testing.assert_array_equal(
            frames_of(VideoFile(path, decoder), [index])[0], frames[index]
        )
    return frames


def of_ffmpeg(path: Path, size: tuple[int, int]) -> np.ndarray:
    """All frames as ffmpeg's own program shows them."""
    show = ["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), *show]
    output = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(output, np.uint8).reshape(-1, *size, 3)


needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("turn", TURNS)
def test_every_reader_shows_a_video_upright(
    turn: str, codec: str, decoder: str, tmp_path: Path
) -> None:
    matrix, expected = TURNS[turn]
    path = write(tmp_path / "v.mp4", codec)
    plain = images(path)
    shown = images(turned(path, matrix), decoder)
    np.testing.assert_array_equal(shown, [expected(image) for image in plain])


@needs_ffmpeg
@pytest.mark.parametrize("turn", TURNS)
def test_upright_is_what_ffmpeg_calls_upright(turn: str, tmp_path: Path) -> None:
    path = turned(tmp_path / "turned.mp4", TURNS[turn][0])
    frames = images(path)
    np.testing.assert_array_equal(of_ffmpeg(path, frames.shape[1:3]), frames)


def test_any_angle(tmp_path: Path) -> None:
    """The picture keeps its size; turned on by the rest of a quarter, its middle is upright."""
    half = np.sqrt(0.5)
    shown = images(turned(tmp_path / "v.mp4", (half, half, -half, half)))
    plain = images(write(tmp_path / "plain.mp4"))
    back = np.array([[half, -half], [half, half]])
    for image, original in zip(shown, plain, strict=True):
        assert image.shape == original.shape
        assert not image[0, 0].any()
        middle = upright(image, back)[20:28, 28:36].astype(float)
        assert np.abs(middle - original[20:28, 28:36]).mean() < 3


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_a_matrix_that_only_enlarges_turns_nothing(scale: float, tmp_path: Path) -> None:
    shown = images(turned(tmp_path / "v.mp4", (scale, 0, 0, scale)))
    np.testing.assert_array_equal(shown, images(write(tmp_path / "plain.mp4")))


@pytest.mark.parametrize("name", ODD)
def test_what_is_shown_counts(name: str, tmp_path: Path) -> None:
    """Not what the header states, and without pictures that refer to nothing."""
    make, shown = ODD[name]
    plain = images(write(tmp_path / "plain.avi"))
    path = make(tmp_path / name)
    video = VideoFile(path)
    with open_video(str(path)) as stream:
        assert video.stated == stream.frames
    assert (video.stated == video.num_frames) == (name == "cut_at_a_key_frame.mp4")
    np.testing.assert_array_equal(images(path), plain[shown.start :])


def test_a_stream_joined_late_begins_at_its_first_key_frame(tmp_path: Path) -> None:
    path = stream_joined_late(tmp_path / "v.mpg")
    plain = images(write(tmp_path / "plain.ts", "mpeg2video"))
    frames = images(path)
    assert 0 < len(frames) < FRAMES
    np.testing.assert_array_equal(frames, plain[-len(frames) :])


@pytest.mark.parametrize("keep", [0.8, 0.9])
@pytest.mark.parametrize("make", [write, dropped_frames])
def test_a_file_that_breaks_off_stays_an_error(
    make: Callable[[Path], Path], keep: float, tmp_path: Path
) -> None:
    path = make(tmp_path / "v.avi")
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    video = VideoFile(path)
    assert video.truncated
    with pytest.raises(UserError, match="is broken: only"):
        list(video.rgb([video.num_frames - 1]))
    with pytest.raises(UserError, match=r"breaks off at \d"):
        list(read_in_order(str(path)))
