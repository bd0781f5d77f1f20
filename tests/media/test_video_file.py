"""Frames of video files against a full decoding, for every decoder and many kinds of file."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from src.media import video_file
from src.media.frames_in_order import read_in_order
from src.media.sources import Uint8
from src.media.video_file import VideoFile
from src.utils.errors import UserError
from tests.builders import CLIPS, moving_texture, write_video

needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="no real clips here")
needs_decord = pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel here")
# demo_skeleton.mp4 is only larger, nasa_13013.mp4 only longer, which takes long.
REAL = ("test.avi", "part_0.mp4", "demo_spatiotemporal_det.mp4", "unordered.mov")
COUNT = 41


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is written, and whether its frames can be jumped to."""

    codec: str
    options: dict[str, str] = field(default_factory=dict)
    key_every: int = 12
    jumps: bool = True
    count: int = COUNT
    audio: bool = False
    uneven: bool = False  # in time


def h264(options: str, **more: Any) -> Kind:
    return Kind("libx264", {"x264-params": f"min-keyint=1:scenecut=0:{options}"}, **more)


FEW_KEYS = {"sc_threshold": str(10**9)}  # no key frame where the picture changes
B_FRAMES = FEW_KEYS | {"bf": "2"}
PYRAMID = "bframes=4:b-pyramid=normal:b-adapt=0"
KINDS = {
    "one_key.avi": Kind("mpeg4", B_FRAMES, key_every=300),
    "several_keys.avi": Kind("mpeg4", B_FRAMES),
    "several_keys.mp4": Kind("mpeg4", B_FRAMES),
    "without_b_frames.avi": Kind("mpeg4", FEW_KEYS),
    "audio.avi": Kind("mpeg4", B_FRAMES, key_every=300, audio=True),
    "one_frame.avi": Kind("mpeg4", B_FRAMES, count=1),
    "two_frames.avi": Kind("mpeg4", B_FRAMES, count=2),
    "one_frame.mp4": Kind("libx264", count=1, jumps=False),
    "one_key.mp4": h264(PYRAMID, key_every=300),
    "audio.mp4": Kind("libx264", key_every=300, audio=True),
    "closed.mp4": h264(f"{PYRAMID}:open-gop=0"),
    "open.mp4": h264(f"{PYRAMID}:open-gop=1"),
    "open.mkv": h264(f"{PYRAMID}:open-gop=1"),
    "open.ts": h264(f"{PYRAMID}:open-gop=1"),
    "without_b_frames.mp4": h264("bframes=0"),
    "intra_refresh.mp4": h264("bframes=0:intra-refresh=1"),
    "uneven.mp4": h264(PYRAMID, uneven=True),
    "uneven.mkv": h264(PYRAMID, uneven=True),
    "h264_without_b_frames.avi": h264("bframes=0"),
    "h264.avi": h264("bframes=3:b-adapt=0", jumps=False),  # it tells no times of display
    "h264_open.avi": h264("bframes=3:b-adapt=0:open-gop=1", jumps=False),
    "h264.h264": h264("bframes=3:b-adapt=0", jumps=False),  # it tells no times at all
    "mpeg2.mpg": Kind("mpeg2video", B_FRAMES),
    "mpeg2.avi": Kind("mpeg2video", B_FRAMES),
    "mpeg2.mp4": Kind("mpeg2video", B_FRAMES),
    "vp9.webm": Kind("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "vp9_hidden.webm": Kind("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp8.webm": Kind("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}, jumps=False),
    "av1.mp4": Kind("libsvtav1", {"preset": "12"}),
    "hevc.mp4": Kind("libx265", {"preset": "ultrafast", "x265-params": "bframes=3:open-gop=1"}),
    "hevc.mkv": Kind("libx265", {"preset": "ultrafast", "x265-params": "bframes=3:open-gop=0"}),
}


def encode(path: Path, kind: Kind) -> Path:
    """Write a texture that moves and flickers, so that no two frames look alike."""
    frames = moving_texture((1.5, -0.5), kind.count, (96, 128)) // 2
    frames += (10 + np.arange(kind.count) * 37 % 100).astype(np.uint8)[:, None, None, None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=25, options=kind.options)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.gop_size = kind.key_every
        if kind.uneven:
            stream.codec_context.time_base = Fraction(1, 100)
        sound = container.add_stream("aac", rate=8000) if kind.audio else None
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if kind.uneven:
                frame.pts, frame.time_base = 7 * number + number % 5, Fraction(1, 100)
            container.mux(stream.encode(frame))
            if sound:
                silence = av.AudioFrame(format="fltp", layout="mono", samples=320)
                silence.rate, silence.pts = 8000, 320 * number
                silence.planes[0].update(bytes(silence.planes[0].buffer_size))
                container.mux(sound.encode(silence))
        for every in container.streams:
            container.mux(every.encode())
    return path


def decode_all(path: Path) -> list[Uint8]:
    """All frames up to the first that cannot be decoded."""
    frames = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream):
                return []
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
    except av.FFmpegError:
        pass
    return frames


@dataclass
class File:
    """A file with all its frames."""

    path: Path
    frames: list[Uint8]

    def check(self, video: VideoFile, indices: Sequence[int]) -> None:
        """The frames read are those asked for; decoders may round colors their own way."""
        read = list(video.rgb(indices))
        assert len(read) == len(indices)
        for index, image in zip(indices, read, strict=True):
            assert image.dtype == np.uint8
            assert image.shape == self.frames[index].shape
            assert np.abs(image - self.frames[index].astype(int)).mean() < 2, index


Make = Callable[[str], File]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A file of a kind, or a real one; each is written once."""
    root, made = tmp_path_factory.mktemp("videos"), dict[str, File]()

    def make(name: str) -> File:
        if name not in made:
            path = CLIPS / name
            if name in KINDS:
                kind = KINDS[name]
                if kind.codec not in av.codecs_available:
                    pytest.skip(f"no encoder {kind.codec} here")
                # SVT-AV1 gives the thread that calls it real-time priority, where it may: one that
                # ends, else all other processes would wait for the rest of the tests.
                with ThreadPoolExecutor(1) as thread:
                    path = thread.submit(encode, root / name, kind).result()
            made[name] = File(path, decode_all(path))
        return made[name]

    return make


@pytest.fixture(
    params=[
        "auto",
        "pyav",
        pytest.param("decord", marks=needs_decord),
        "without decord",
    ]
)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every choice of decoder, and decord where it cannot be installed."""
    if request.param == "without decord":
        monkeypatch.setitem(sys.modules, "decord", None)  # it cannot be imported
        return "decord"
    return str(request.param)


def various(count: int) -> list[list[int]]:
    """Indices of all sorts: all, few, in order, at the ends, in any order, repeated."""
    rng = np.random.default_rng(0)
    mixed = rng.permutation(count)[:8].tolist()
    return [
        list(range(count)),
        list(range(0, count, 5)),
        [count - 1],
        [0],
        [count // 2],
        mixed + mixed[::-1],
        *(sorted(rng.permutation(count)[:6].tolist()) for _ in range(4)),
    ]


FILES = [*KINDS, *(pytest.param(name, marks=needs_clips) for name in REAL)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_a_full_decoding(name: str, decoder: str, make: Make) -> None:
    file = make(name)
    video = VideoFile(file.path, decoder)
    if name in KINDS:
        assert video.num_frames == KINDS[name].count
    assert video.num_frames == len(file.frames)
    for indices in various(video.num_frames):
        file.check(video, indices)  # the same reader again and again


@pytest.mark.parametrize("name", KINDS)
def test_jumps_wherever_it_can(name: str, make: Make) -> None:
    video = VideoFile(make(name).path)
    assert isinstance(video._reader, video_file._Packets) == KINDS[name].jumps


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("closed.mp4", "decord"),
        ("vp9.webm", "decord"),
        ("open.mp4", "pyav"),
        ("intra_refresh.mp4", "pyav"),
        ("h264_without_b_frames.avi", "pyav"),
        ("several_keys.avi", "pyav"),
        ("hevc.mp4", "pyav"),
    ],
)
@needs_decord
def test_decord_reads_what_it_reads_right(name: str, used: str, make: Make) -> None:
    assert VideoFile(make(name).path, "decord").decoder == used


@pytest.mark.parametrize("name", ["one_key.avi", "open.mp4", "mpeg2.mpg", "h264.h264"])
def test_large_files_are_not_held_in_memory(
    name: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make(name)
    monkeypatch.setattr(video_file, "LARGE", file.path.stat().st_size - 1)
    video = VideoFile(file.path)
    assert not getattr(video._reader, "_held", [])
    assert isinstance(video._reader, video_file._Packets) == KINDS[name].jumps
    for indices in various(video.num_frames):
        file.check(video, indices)


@pytest.mark.parametrize(
    ("name", "indices", "most"),
    [
        ("one_key.avi", [20], 9),  # every third frame, and the one asked for
        ("one_key.avi", [0, 10, 40], 17),
        ("several_keys.avi", [40], 6),  # from the last key frame on
        ("closed.mp4", [3, 6], 9),
        ("closed.mp4", [40], 4),
        ("open.mp4", [40], 6),
        ("hevc.mp4", [20], 9),
        ("mpeg2.mpg", [30], 5),
    ],
)
def test_decodes_little_more_than_it_is_asked_for(
    name: str, indices: list[int], most: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, decoded = video_file._Packets._decode, []

    def counting(self: video_file._Packets, some: Sequence[int]) -> Iterator[av.VideoFrame]:
        for frame in decode(self, some):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_file._Packets, "_decode", counting)
    make(name).check(VideoFile(make(name).path), indices)
    assert len(decoded) <= most
    assert len(set(decoded)) == len(decoded)


@pytest.mark.parametrize("name", ["one_key.avi", "open.mp4", "h264.avi"])
def test_one_reader_read_twice_at_a_time(name: str, decoder: str, make: Make) -> None:
    file = make(name)
    video = VideoFile(file.path, decoder)
    pairs = zip(video.rgb(range(5, 30)), video.rgb(range(8, 33)), strict=True)
    for index, (one, other) in enumerate(pairs):
        assert np.abs(one - file.frames[5 + index].astype(int)).mean() < 2
        assert np.abs(other - file.frames[8 + index].astype(int)).mean() < 2


def test_reader_left_in_the_middle(decoder: str, make: Make) -> None:
    file = make("one_key.avi")
    video = VideoFile(file.path, decoder)
    next(video.rgb(range(30)))
    file.check(video, [2, 3, 17])


def test_no_indices(decoder: str, make: Make) -> None:
    assert list(VideoFile(make("one_key.avi").path, decoder).rgb([])) == []


def test_frames_per_second(make: Make) -> None:
    assert VideoFile(make("closed.mp4").path).fps == 25
    assert VideoFile(make("one_key.avi").path, "decord").fps == 25


def left_out(packet: bytes) -> bytes:
    """The note of MPEG-4 at 25 frames/s that a frame is skipped, in place of the frame."""
    bits = "".join(f"{byte:08b}" for byte in packet[4:12])
    coded = bits.index("0", 2) + 1 + 1 + 5 + 1  # after seconds, marker, time, marker
    note = bits[:coded] + "0"
    note += "0111111111"[: 8 - len(note) % 8]
    return packet[:4] + int(note, 2).to_bytes(len(note) // 8, "big")


def test_frames_that_the_encoder_left_out(decoder: str, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "left_out.avi"
    with av.open(str(make("without_b_frames.avi").path)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        seen = 0
        for packet in old.demux(video=0):
            content = bytes(packet)
            if not content:
                continue
            seen += content.startswith(b"\x00\x00\x01\xb6")  # no key frame
            copy = av.Packet(left_out(content) if seen in (5, 14) else content)
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)
    file = File(path, decode_all(path))
    assert 0 < len(file.frames) < COUNT
    for indices in various(len(file.frames)):
        file.check(VideoFile(path, decoder), indices)


def test_title_in_an_old_encoding(decoder: str, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "title.avi"
    with av.open(str(make("one_key.avi").path)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        new.metadata["title"] = "Caf_ noir"
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    content = path.read_bytes()
    assert content.count(b"Caf_ noir") == 1
    path.write_bytes(content.replace(b"Caf_", b"Caf\xe9"))
    File(path, make("one_key.avi").frames).check(VideoFile(path, decoder), [0, 20, 40])


@needs_clips
def test_file_that_breaks_off(decoder: str) -> None:
    path = CLIPS / "corrupted.mp4"
    file = File(path, decode_all(path))
    assert len(file.frames) == 28
    video = VideoFile(path, decoder)
    assert video.num_frames == 50
    file.check(video, [0, 5, 27])
    with pytest.raises(UserError, match=r"corrupted\.mp4 is broken: only 28 frames"):
        list(video.rgb(range(video.num_frames)))


def moved_to_the_front(path: Path) -> Path:
    """A copy of an .mp4 whose index comes before its frames."""
    fast = path.with_name(f"front_{path.name}")
    with (
        av.open(str(path)) as old,
        av.open(str(fast), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return fast


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.6, 0.9, 0.99, 1])
@pytest.mark.parametrize("name", ["one_key.avi", "closed.mp4", "front of open.mp4", "open.mkv"])
def test_file_that_is_cut_off(
    name: str, share: float, decoder: str, make: Make, tmp_path: Path
) -> None:
    file = make(name.removeprefix("front of "))
    whole = moved_to_the_front(file.path) if "front" in name else file.path
    path = tmp_path / name
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size) - 1])
    cut = File(path, decode_all(path))
    if not cut.frames:
        with pytest.raises(UserError, match="cannot be decoded"):
            VideoFile(path, decoder)
        return
    video = VideoFile(path, decoder)
    assert video.num_frames >= len(cut.frames)
    for index in range(0, len(cut.frames), 3):
        cut.check(video, [index])
    if video.num_frames > len(cut.frames):
        with pytest.raises(UserError, match="is broken: only"):
            list(video.rgb([video.num_frames - 1]))


@pytest.mark.parametrize("name", ["one_key.avi", "open.mp4"])
def test_damaged_bytes_give_frames_or_an_error_for_the_user(
    name: str, make: Make, tmp_path: Path
) -> None:
    content = make(name).path.read_bytes()
    rng = np.random.default_rng(1)
    for attempt in range(12):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 2 ** (attempt % 6)).tolist():
            damaged[place] = int(rng.integers(256))
        path = tmp_path / f"{attempt}_{name}"
        path.write_bytes(damaged)
        try:
            video = VideoFile(path)
            for _ in video.rgb(range(0, video.num_frames, 4)):
                pass
        except UserError:
            continue


@pytest.mark.parametrize("content", [b"this is no video\n", b"", b"RIFF\x00\x00\x00\x00AVI LIST"])
def test_file_that_is_no_video(content: bytes, decoder: str, tmp_path: Path) -> None:
    (tmp_path / "text.avi").write_bytes(content)
    with pytest.raises(UserError, match=r"text\.avi cannot be decoded"):
        VideoFile(tmp_path / "text.avi", decoder)


def test_sound_without_pictures(decoder: str, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame(format="s16", layout="mono", samples=800)
        silence.rate = 8000
        container.mux(stream.encode(silence))
    with pytest.raises(UserError, match=r"sound\.wav cannot be decoded"):
        VideoFile(tmp_path / "sound.wav", decoder)


def test_missing_file(decoder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.mp4 does not exist"):
        VideoFile(tmp_path / "nowhere.mp4", decoder)


def test_unknown_decoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"decoder=opencv: choose from auto, pyav, decord"):
        VideoFile(tmp_path / "nowhere.mp4", "opencv")


def test_codec_that_nobody_knows(tmp_path: Path) -> None:
    """One damaged byte is enough; the video is there, but nothing that could decode it."""
    whole = write_video(tmp_path / "whole.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    content = whole.read_bytes()
    at = content.index(b"stsd") + 16
    assert content[at : at + 4] in (b"avc1", b"mp4v")
    file = tmp_path / "unknown.mp4"
    file.write_bytes(content[:at] + b"zzzz" + content[at + 4 :])
    readers: tuple[Callable[[], Any], ...] = (
        lambda: VideoFile(file),
        lambda: VideoFile(file, "decord"),
        lambda: next(read_in_order(str(file))),
    )
    for read in readers:
        with pytest.raises(UserError, match=r"unknown\.mp4 cannot be decoded"):
            read()


@needs_decord
def test_first_packet_that_decord_cannot_be_asked_about(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", moving_texture((1, 0.5), 8, (48, 64)))
    content = file.read_bytes()
    at = content.index(b"mdat") + 4
    file.write_bytes(content[:at] + b"\xff" * 4 + content[at + 4 :])
    with contextlib.suppress(UserError):
        assert VideoFile(file, "decord").decoder == "pyav"


def test_encoders_leave_this_process_as_it_was(make: Make) -> None:
    if hasattr(os, "sched_getscheduler"):
        make("av1.mp4")
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
