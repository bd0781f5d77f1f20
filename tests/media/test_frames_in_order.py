"""Frames of files and streams in order: times, orientation, and what is said of broken ones."""

import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from src.media.frames_in_order import is_stream, read_in_order
from src.media.video_file import VideoFile
from src.media.video_writer import VideoWriter
from src.utils.errors import UserError
from tests.builders import CLIPS, frames_of, moving_texture, write_video


def test_frames_are_those_of_random_access(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", moving_texture((1.0, 0.0), 6))
    frames = list(read_in_order(str(video)))
    assert [frame.index for frame in frames] == list(range(6))
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(6)])
    expected = frames_of(VideoFile(video), range(6))
    np.testing.assert_array_equal(np.stack([frame.image for frame in frames]), expected)


def test_times_are_the_files_own(tmp_path: Path) -> None:
    times, images = [0.0, 0.1, 0.15, 2.0], moving_texture((1.0, 0.0), 4)
    with closing(VideoWriter(tmp_path / "v.mp4", (64, 64), 25, 20, ticks=30000)) as writer:
        for time, image in zip(times, images[:, :64, :64], strict=True):
            writer.write(image, time)
    frames = list(read_in_order(str(tmp_path / "v.mp4")))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-4)


def sound_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.rate = 8000
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def text(path: Path) -> None:
    path.write_text("no video at all")


@pytest.mark.parametrize(
    ("make", "word"), [(sound_only, "no video in it"), (text, "cannot be opened")]
)
def test_a_file_without_video_is_told(
    make: Callable[[Path], None], word: str, tmp_path: Path
) -> None:
    make(tmp_path / "v.mp4")
    with pytest.raises(UserError, match=word):
        list(read_in_order(str(tmp_path / "v.mp4")))
    with pytest.raises(UserError, match=r"v\.mp4 cannot be decoded"):
        VideoFile(tmp_path / "v.mp4")


@pytest.mark.skipif(not CLIPS.is_dir(), reason="no real clips here")
def test_where_a_file_breaks_off(tmp_path: Path) -> None:
    frames = read_in_order(str(CLIPS / "corrupted.mp4"))
    for _ in range(28):
        next(frames)
    with pytest.raises(UserError, match=r"breaks off at 2\.70 s"):
        next(frames)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_a_stream(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.ts", moving_texture((1.0, 0.0), 6))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert is_stream(str(pipe))
    assert not is_stream(str(video))
    feeder = threading.Thread(target=lambda: pipe.write_bytes(video.read_bytes()), daemon=True)
    feeder.start()
    assert len(list(read_in_order(str(pipe)))) == 6
    feeder.join()


def test_streams_are_told_by_their_names() -> None:
    assert is_stream("rtsp://camera/live")
    assert is_stream("pipe:0")
    assert is_stream(os.devnull)
    assert not is_stream("absent.mp4")
