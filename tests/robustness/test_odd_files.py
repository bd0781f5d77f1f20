"""Files that are no files, that stand for others, or that claim to be larger than can be."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.evaluation.scores import VideoScores
from src.flow.settings import FlowSettings
from src.media.find_videos import find_videos
from src.media.frames_in_order import read_in_order
from src.media.images import FrameImages, encode_jpeg, open_images
from src.media.sources import LIMIT, size_at
from src.media.video_file import DECODERS, VideoFile
from src.media.video_writer import VideoWriter
from src.prediction.output import AnnotatedVideo
from src.utils.errors import UserError
from tests.builders import frames_of, write_video


def video(path: Path, frames: int = 4, side: int = 32) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    write_video(path, noise)
    return path


def pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, a_socket, device])
def test_folders_have_regular_files(
    make: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe would be waited for, and a device has no end; a link to a file is as the file."""
    caplog.set_level("INFO")
    clip = video(tmp_path / "videos" / "clip.mp4")
    (tmp_path / "videos" / "link.mp4").symlink_to(clip)
    make(tmp_path / "videos" / "odd.mp4")
    assert [path.name for path in find_videos(tmp_path / "videos")] == ["clip.mp4", "link.mp4"]
    assert "1 skipped that are no videos: .mp4 (1)" in caplog.text

    folder = tmp_path / "frames" / "clip"
    folder.mkdir(parents=True)
    for number in (1, 2, 3):
        image = encode_jpeg(np.full((16, 16, 3), 50 * number, np.uint8))
        (folder / f"frame{number:06d}.jpg").write_bytes(image)
    make(folder / "frame000004.jpg")
    assert FrameImages(open_images(tmp_path / "frames"), "clip").num_frames == 3

    make(tmp_path / "scores.csv")
    with pytest.raises(UserError, match=r"scores.csv is no file"):
        VideoScores.load(tmp_path / "scores.csv")


LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile 'other.mp4'\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_video_is_the_file_that_was_named(kind: str, decoder: str, tmp_path: Path) -> None:
    video(tmp_path / "other.mp4")
    clip = tmp_path / "clip.mp4"
    clip.write_text(LISTS[kind])
    with pytest.raises(UserError, match=r"clip.mp4 cannot be decoded \("):
        VideoFile(clip, decoder)
    with pytest.raises(UserError, match=r"clip.mp4 cannot be"):
        list(read_in_order(str(clip)))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_video_with_frames_that_are_too_large(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = video(tmp_path / "clip.mp4")
    monkeypatch.setenv(LIMIT, "1023")
    told = rf"clip.mp4 cannot be decoded \(frames of 32x32 pixels, {LIMIT}=1023 is the most\)"
    with pytest.raises(UserError, match=told):
        VideoFile(clip, decoder)
    monkeypatch.setenv(LIMIT, "100000")
    assert VideoFile(clip, decoder).num_frames == 4


def test_frames_that_grow_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stream may: each part of it says anew how large its frames are."""
    small, large = (video(tmp_path / f"{side}.ts", side=side) for side in (32, 256))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    assert len(frames_of(VideoFile(both), range(4))) == 4
    monkeypatch.setenv(LIMIT, "2000")
    with pytest.raises(UserError, match=r"both.ts"):
        list(read_in_order(str(both)))


def test_an_image_that_claims_a_billion_pixels(tmp_path: Path) -> None:
    content = bytearray(encode_jpeg(np.zeros((64, 64, 3), np.uint8)))
    at = content.find(b"\xff\xc0") + 5
    content[at : at + 4] = (32000).to_bytes(2, "big") * 2
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "frame000001.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"more pixels than {LIMIT}={os.environ[LIMIT]}"):
        frames_of(FrameImages(open_images(tmp_path), "clip"), [0])


@pytest.mark.parametrize("size", [(1, 400), (400, 1)])
def test_a_line_is_annotated_as_large_as_can_be(size: tuple[int, int], tmp_path: Path) -> None:
    with closing(AnnotatedVideo(tmp_path / "line.mp4")) as annotated:
        annotated.write(np.zeros((*size, 3), np.uint8), 0, 0.0, [("walk", 0.7)], {})
    written = VideoFile(tmp_path / "line.mp4")
    (frame,) = written.rgb([0])
    assert max(frame.shape) <= 4096


def test_what_an_encoder_refuses_is_one_line(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "wide.mp4", (240, 96000), 25, crf=20)
    with pytest.raises(UserError, match=r"of 96000x240 pixels cannot be written to .*wide.mp4"):
        writer.write(np.zeros((240, 96000, 3), np.uint8))


def test_a_line_is_not_resized_to_a_plane() -> None:
    assert size_at((2, 200), 256) == (256, 25600)
    with pytest.raises(UserError, match=rf"30000x1 pixels cannot be resized .* 256: {LIMIT}="):
        size_at((1, 30000), 256)


def test_flow_without_an_end() -> None:
    """Whoever writes a checkpoint says how flow is to be computed."""
    with pytest.raises(UserError, match=r"tvl1 with .* steps for a field, 10,000,000 is the most"):
        FlowSettings("tvl1", {"outerIterations": 10**9})
    with pytest.raises(UserError, match=r"raft with .*1,000,000,000 steps"):
        FlowSettings("raft", {"iterations": 10**9})


@pytest.mark.parametrize("settings", [{"short_side": 50000}, {"short_side": 0}, {"bound": -1.0}])
def test_flow_of_an_impossible_size(settings: dict[str, Any]) -> None:
    ((key, value),) = settings.items()
    with pytest.raises(UserError, match=rf"flow.{key}={value}: needs a"):
        FlowSettings("dis", **settings)
