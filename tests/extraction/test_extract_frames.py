"""Frames are extracted as flow is, and with it in one pass."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from src import extract_flow as flow_command
from src import extract_frames as frames_command
from src.extraction.extract import extract
from src.extraction.formats import FORMATS
from src.extraction.products import FRAMES_FILE, FrameSettings, Product
from src.extraction.provenance import source_of, sources_kept
from src.extraction.shards import Shard
from src.flow.settings import FlowSettings
from src.media.find_videos import find_videos
from src.media.images import FrameImages, open_images
from src.media.skipped import SOURCES
from src.media.video_file import VideoFile
from src.utils.errors import UserError
from tests.builders import moving_texture, write_video
from tests.extraction.test_extract_formats import images_in
from tests.media.odd_videos import TURNS, turned

DIS = FlowSettings("dis", {"finest_scale": 0}, short_side=48)
SMALL = FrameSettings(short_side=48)
COUNTS = {"Down": 5, "right": 3}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    for name, count in COUNTS.items():
        write_video(folder / f"{name}.mp4", moving_texture((2.0, 1.0), count, size=(72, 96)))
    return find_videos(folder)


@pytest.mark.parametrize("format", FORMATS)
def test_they_are_the_videos_frames(format: str, videos: list[Path], tmp_path: Path) -> None:
    result = extract(videos, [Product(tmp_path, SMALL)], 2, format)
    assert (result.done, result.reused, result.failed, result.frames) == (2, 0, {}, 8)
    files = {"jpeg": {"rgb", SOURCES}, "zip": {"frames.zip"}}[format]
    assert {entry.name for entry in tmp_path.iterdir()} == files | {FRAMES_FILE}
    index = open_images(tmp_path)
    assert index.videos("rgb") == COUNTS
    assert index.videos("u") == {}
    for video in videos:
        frames = VideoFile(video)
        pairs = zip(
            FrameImages(index, video.stem).rgb(range(frames.num_frames)),
            frames.rgb(range(frames.num_frames)),
            strict=True,
        )
        for stored, image in pairs:
            assert stored.shape == (48, 64, 3)
            expected = cv2.resize(image, (64, 48), interpolation=cv2.INTER_AREA)
            assert np.abs(stored.astype(int) - expected).mean() < 3  # JPEG only
    again = extract(videos, [Product(tmp_path, SMALL)], 1, format)
    assert (again.done, again.reused) == (0, 2)


def test_without_a_size_they_keep_theirs(videos: list[Path], tmp_path: Path) -> None:
    extract(videos[:1], [Product(tmp_path, FrameSettings(None))], 1)
    (image,) = FrameImages(open_images(tmp_path), "Down").rgb([4])
    assert image.shape == (72, 96, 3)


def test_turned_videos_are_upright(tmp_path: Path) -> None:
    video = turned(tmp_path / "videos" / "a.mp4", TURNS["quarter clockwise"][0])
    extract([video], [Product(tmp_path / "frames", FrameSettings(None))], 1)
    (stored,) = FrameImages(open_images(tmp_path / "frames"), "a").rgb([1])
    (image,) = VideoFile(video).rgb([1])
    assert stored.shape == image.shape
    assert np.abs(stored.astype(int) - image).mean() < 3


@pytest.mark.parametrize("format", FORMATS)
def test_one_pass_makes_what_two_make(format: str, videos: list[Path], tmp_path: Path) -> None:
    def products(name: str) -> list[Product]:
        folder = tmp_path / name
        return [Product(folder / "flow", DIS), Product(folder / "frames", SMALL)]

    result = extract(videos, products("once"), 2, format)
    assert (result.done, result.frames) == (2, 8)  # a frame counts once
    for product in products("twice"):
        extract(videos, [product], 1, format)
    for kind in ("flow", "frames"):
        assert images_in(tmp_path / "once" / kind) == images_in(tmp_path / "twice" / kind)


def test_what_one_kind_lacks_is_made(videos: list[Path], tmp_path: Path) -> None:
    flow, frames = Product(tmp_path / "flow", DIS), Product(tmp_path / "frames", SMALL)
    extract(videos[:1], [flow], 1)
    marked = tmp_path / "flow" / "u" / "Down" / "frame000001.jpg"
    marked.write_bytes(b"mark")
    result = extract(videos, [flow, frames], 1)
    assert (result.done, result.reused) == (2, 0)
    assert marked.read_bytes() == b"mark"
    assert open_images(tmp_path / "frames").videos("rgb") == COUNTS
    shutil.rmtree(tmp_path / "frames" / "rgb" / "right")
    result = extract(videos, [flow, frames], 1)
    assert (result.done, result.reused) == (1, 1)


def test_a_single_frame_has_no_flow_but_is_stored(videos: list[Path], tmp_path: Path) -> None:
    still = write_video(tmp_path / "still.mp4", moving_texture((0, 0), frames=1))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    flow, frames = Product(tmp_path / "flow", DIS), Product(tmp_path / "frames", SMALL)
    for _ in range(2):
        result = extract([still, broken, *videos], [flow, frames], 2)
        assert result.failed.keys() == {"still", "broken"}
        assert "single frame has no optical flow" in result.failed["still"]
        assert "broken.mp4 cannot be decoded" in result.failed["broken"]
    assert open_images(frames.output).videos("rgb") == COUNTS | {"still": 1}
    assert open_images(flow.output).videos("u").keys() == COUNTS.keys()
    assert "still" in (flow.output / "failed.csv").read_text()
    assert "still" not in (frames.output / "failed.csv").read_text()
    assert not [*tmp_path.glob("*/.*")]  # nothing of what failed is left


def test_a_video_that_was_replaced_is_extracted_again(videos: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copy(video, tmp_path)) for video in videos]
    product = Product(tmp_path / "frames", SMALL)
    extract(copies, [product], 1)
    assert sources_kept(product.output) == {v.stem.lower(): source_of(v) for v in copies}
    shutil.copyfile(copies[0], copies[1])
    result = extract(copies, [product], 1)
    assert (result.done, result.reused) == (1, 1)
    assert open_images(product.output).videos("rgb") == {"Down": 5, "right": 5}


def test_refuses_a_mix(videos: list[Path], tmp_path: Path) -> None:
    extract(videos[:1], [Product(tmp_path, SMALL)], 1)
    with pytest.raises(UserError, match=r"other settings \(short_side 48 there, 64"):
        extract(videos, [Product(tmp_path, FrameSettings(64))], 1)
    with pytest.raises(UserError, match="frames in format jpeg, not zip"):
        extract(videos, [Product(tmp_path, SMALL)], 1, "zip")
    (tmp_path / FRAMES_FILE).write_text("{}")
    with pytest.raises(UserError, match="not readable as settings of frames"):
        extract(videos, [Product(tmp_path, SMALL)], 1)
    (tmp_path / FRAMES_FILE).unlink()
    with pytest.raises(UserError, match=r"frames without frames\.json"):
        extract(videos, [Product(tmp_path, SMALL)], 1)
    assert open_images(tmp_path).videos("rgb") == {"Down": 5}


def test_shards_share_a_folder(videos: list[Path], tmp_path: Path) -> None:
    for index in (1, 2):
        extract(videos, [Product(tmp_path, SMALL)], 1, "zip", Shard(index, 2))
    assert {file.name for file in tmp_path.glob("*.zip")} == {
        "frames-1-of-2.zip",
        "frames-2-of-2.zip",
    }
    assert open_images(tmp_path).videos("rgb") == COUNTS


def test_the_commands(
    videos: list[Path],
    tmp_path: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Into the folder of the videos, which is not searched for what is extracted there."""
    root = tmp_path / "videos"
    shutil.copytree(videos[0].parent, root)
    given = (f"input={root}", "workers=1")
    small = "flow=dis", "flow.short_side=48"
    assert call(frames_command.main, *given, f"output={root / 'a'}", "short_side=48") == 0
    assert "frames of 2 videos extracted, 0 already there, 0 failed; 8 frames in" in (
        capsys.readouterr().out
    )
    both = (*given, *small, f"output={root / 'flow'}", f"frames={root / 'b'}")
    assert call(flow_command.main, *both, "frames_short_side=48") == 0
    printed = capsys.readouterr().out
    assert "flow and frames of 2 videos extracted, 0 already there" in printed
    assert f"frames in {root / 'b'}, its settings in {root / 'b' / FRAMES_FILE}" in printed
    assert images_in(root / "a") == images_in(root / "b")
    assert call(frames_command.main, *given, f"output={root / 'c'}", "short_side=0") == 1
    assert "short_side=0" in capsys.readouterr().err
    assert call(flow_command.main, *both[:-1], f"frames={root / 'flow'}") == 1
    assert "the flow goes there" in capsys.readouterr().err
