"""Reading frames by two decoders, flow from JPEG files, and flow computed from frames."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from src.data import video_file
from src.data.sources import Uint8
from src.data.video_file import VideoFile
from src.errors import UserError
from src.flow.algorithms import dis
from src.flow.computed import ComputedFlow
from src.flow.quantise import quantise
from tests.flow.textures import moving_texture
from tests.helpers import CLIPS, fields_of, frames_of, stored_flow, write_flow, write_video

REAL = [
    "test.avi",
    "part_0.mp4",
    "demo_spatiotemporal_det.mp4",
    "nasa_13013.mp4",
    "unordered.mov",
]  # demo_skeleton.mp4 is only larger, which takes long
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="no real clips here")
needs_decord = pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel here")


def numbered(count: int, size: tuple[int, int] = (48, 64)) -> Uint8:
    """Frames (N, H, W, 3) of which frame i is of the even grey 20 + 5 i."""
    greys = np.arange(20, 20 + 5 * count, 5, dtype=np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (count, *size, 3)).copy()


def mean_difference(one: Uint8, other: Uint8) -> float:
    """The largest, over images, of the mean absolute difference."""
    return float(np.abs(one.astype(int) - other.astype(int)).mean(axis=(1, 2, 3)).max())


@pytest.fixture(params=[pytest.param("decord", marks=needs_decord), "pyav"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test once with decord and once where it cannot be installed."""
    if request.param == "pyav":
        monkeypatch.setattr(video_file, "decord", None)
    return str(request.param)


class TestVideoFile:
    @needs_clips
    @needs_decord
    @pytest.mark.parametrize("name", REAL)
    def test_decoders_agree(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        video = VideoFile(CLIPS / name)
        order = np.random.default_rng(0).permutation(video.num_frames)[:10].tolist()
        indices = [*order, order[0], video.num_frames - 1, 0]
        frames = frames_of(video, indices)
        assert video.decoder == "decord"
        monkeypatch.setattr(video_file, "decord", None)
        other = VideoFile(CLIPS / name)
        assert other.decoder == "pyav"
        assert other.num_frames == video.num_frames
        assert mean_difference(frames, frames_of(other, indices)) < 1

    @pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
    def test_reads_what_was_written(self, codec: str, decoder: str, tmp_path: Path) -> None:
        # One keyframe and, for H.264, frames stored out of order.
        frames = numbered(30)
        video = VideoFile(write_video(tmp_path / "video.mp4", frames, fps=12, codec=codec))
        assert (video.num_frames, video.fps, video.decoder) == (30, 12, decoder)
        for indices in (range(30), [29, 0, 7, 7, 8, 3, 29]):
            read = frames_of(video, indices)
            assert read.dtype == np.uint8
            assert mean_difference(read, frames[list(indices)]) < 2  # the next frame is 5 off
        assert video.decoder == decoder

    # Fails with PyAV alone until `VideoFile` counts the frames that the container states: a file
    # that breaks off is taken for a shorter one.
    @needs_clips
    def test_file_that_breaks_off(self, decoder: str) -> None:
        video = VideoFile(CLIPS / "corrupted.mp4")
        with pytest.raises(UserError, match=r"corrupted\.mp4 is broken: only \d+ frames"):
            frames_of(video, range(video.num_frames))

    @pytest.mark.parametrize("content", [b"this is no video\n", b""])
    def test_file_that_is_no_video(self, content: bytes, decoder: str, tmp_path: Path) -> None:
        (tmp_path / "text.mp4").write_bytes(content)
        with pytest.raises(UserError, match=r"text\.mp4 cannot be decoded"):
            VideoFile(tmp_path / "text.mp4")

    def test_missing_file(self, decoder: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"nowhere\.mp4 does not exist"):
            VideoFile(tmp_path / "nowhere.mp4")


class TestFlowImages:
    @pytest.fixture
    def fields(self) -> Uint8:
        """Five fields of which field i is u = 10 i, v = 200 - 10 i."""
        u = np.arange(0, 50, 10, dtype=np.uint8)
        return np.broadcast_to(np.stack([u, 200 - u], -1)[:, None, None], (5, 8, 12, 2)).copy()

    def test_any_order_and_repeats(self, fields: Uint8, tmp_path: Path) -> None:
        flow = stored_flow(write_flow(tmp_path, "clip #1 (a)", fields), "clip #1 (a)")
        assert flow.num_fields == 5
        read = fields_of(flow, [4, 0, 2, 2])
        assert read.dtype == np.uint8
        assert (read == fields[[4, 0, 2, 2]]).all()

    def test_missing_flow(self, fields: Uint8, tmp_path: Path) -> None:
        write_flow(tmp_path, "other", fields)
        with pytest.raises(UserError, match=r"video absent: 0 u and 0 v.*src\.extract_flow"):
            stored_flow(tmp_path, "absent")

    def test_components_of_different_number(self, fields: Uint8, tmp_path: Path) -> None:
        write_flow(tmp_path, "clip", fields)
        (tmp_path / "v" / "clip" / "frame000005.jpg").unlink()
        with pytest.raises(UserError, match=r"video clip: 5 u and 4 v"):
            stored_flow(tmp_path, "clip")

    @pytest.mark.parametrize("content", [b"no JPEG", None])
    def test_broken_image(self, content: bytes | None, fields: Uint8, tmp_path: Path) -> None:
        flow = stored_flow(write_flow(tmp_path, "clip", fields), "clip")
        file = tmp_path / "v" / "clip" / "frame000003.jpg"
        file.write_bytes(content) if content else file.unlink()
        assert (fields_of(flow, [1, 3]) == fields[[1, 3]]).all()
        with pytest.raises(UserError, match=r"frame000003\.jpg is missing or broken"):
            fields_of(flow, [1, 2])


class Frames:
    """Frames in memory, with a record of which were read."""

    def __init__(self, frames: Uint8) -> None:
        self.frames, self.num_frames, self.fps = frames, len(frames), 25.0
        self.size = frames.shape[1:3]
        self.read: list[int] = []

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        for index in indices:
            self.read.append(index)
            yield self.frames[index]


class TestComputedFlow:
    def test_equals_extraction_by_hand(self) -> None:
        frames = Frames(moving_texture((2, -1), 40))
        algorithm = dis("ultrafast", finest_scale=0)
        source = ComputedFlow(frames, algorithm, short_side=48, bound=8)
        assert source.num_fields == 39
        indices = [38, 3, 3, *range(38)]
        fields = fields_of(source, indices)
        assert fields.shape == (41, 48, 72, 2)
        grey = np.stack([algorithm.prepare(frame, 48) for frame in frames.frames])
        for index, field in zip(indices, fields, strict=True):
            pair = grey[index : index + 2]
            assert (field == quantise(algorithm.fields(pair[:1], pair[1:])[0], 8)).all()
        # 0.75 of (2, -1) pixels, at 255/16 levels a pixel
        inner = fields[:, 10:-10, 10:-10].mean(axis=(0, 1, 2))
        assert inner == pytest.approx([127.5 + 1.5 * 255 / 16, 127.5 - 0.75 * 255 / 16], abs=2)
        assert frames.read == list(range(40))  # each frame is decoded once, in order

    def test_single_frame_has_no_flow(self) -> None:
        with pytest.raises(UserError, match="single frame"):
            ComputedFlow(Frames(numbered(1)), dis(), short_side=48, bound=20)
