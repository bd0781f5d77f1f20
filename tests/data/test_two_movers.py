"""The synthetic dataset: what its clips show, and that making it can be stopped and repeated."""

import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from src.data import two_movers, two_movers_clips
from src.data.two_movers_clips import CLASSES, DIRECTIONS, RADIUS, TINTS, Clip, make_clip
from src.data.videos import Split, Video
from src.flow.settings import FlowSettings
from src.media.video_file import VideoFile
from src.utils.errors import UserError
from tests.builders import dequantize, fields_of, frames_of, stored_flow

SEED, TRAIN, TEST = 3, 16, 8
CONTENTS = {"videos", "flow", "train.csv", "test.csv", "two_movers.json"}


def clip_of(video: Video, part: int, place: int) -> Clip:
    return make_clip(np.random.default_rng((SEED, part, place)), video.label)


def inside(center: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Pixels (H, W) within half a radius, inside every shape."""
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    return np.hypot(x - center[0], y - center[1]) < RADIUS / 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two_movers") / "made"


@pytest.fixture(scope="module")
def split(root: Path) -> Split:
    return two_movers.read_two_movers(str(root), TRAIN, TEST, SEED, workers=2)


@pytest.mark.slow
def test_classes_are_balanced_in_both_parts(split: Split) -> None:
    assert split.classes == CLASSES
    assert len(set(CLASSES)) == 8
    assert Counter(video.label for video in split.train) == dict.fromkeys(range(8), TRAIN // 8)
    assert Counter(video.label for video in split.test) == dict.fromkeys(range(8), TEST // 8)
    names = {video.name for video in (*split.train, *split.test)}
    assert len(names) == TRAIN + TEST


def test_the_files_are_where_the_layout_says(root: Path, split: Split) -> None:
    video = split.train[9]
    assert video.path == root / "videos" / "red_right" / "red_right_000009.mp4"
    for name, part in (("train", split.train), ("test", split.test)):
        rows = [f"{video.path.relative_to(root)},{CLASSES[video.label]}" for video in part]
        assert (root / f"{name}.csv").read_text().splitlines() == ["video,class", *rows]
    assert len(list((root / "videos").rglob("*"))) == len(CLASSES) + TRAIN + TEST  # no leftovers
    made = json.loads((root / "two_movers.json").read_text())
    expected = {"version": 1, "num_train": TRAIN, "num_test": TEST, "seed": SEED}
    assert made == expected
    assert FlowSettings.load(root / "flow") == two_movers.flow_settings()


@pytest.mark.slow
def test_videos_show_the_clips_they_were_made_from(split: Split) -> None:
    for part, videos in enumerate((split.train, split.test)):
        for place, video in enumerate(videos):
            file = VideoFile(video.path)
            assert (file.num_frames, file.fps) == (32, 25)
            frames = frames_of(file, range(32))
            assert frames.shape == (32, 64, 64, 3)
            error = frames.astype(float) - clip_of(video, part, place).frames
            assert np.abs(error).mean() < 4  # of another clip: over 20


@pytest.mark.slow
def test_flow_inside_the_target_goes_where_the_label_says(root: Path, split: Split) -> None:
    for part, videos in enumerate((split.train, split.test)):
        for place, video in enumerate(videos):
            clip = clip_of(video, part, place)
            source = stored_flow(root / "flow", video.name)
            assert source.num_fields == 31
            fields = dequantize(fields_of(source, range(31)))  # (31, H, W, 2)
            assert fields.shape == (31, 64, 64, 2)
            assert CLASSES[video.label] == f"{clip.target.tint}_{clip.target.direction}"
            for mover in (clip.target, clip.distractor):
                flow = np.median(fields[:, inside(mover.center)], axis=(0, 1))
                along = {name: float(flow @ unit) for name, unit in DIRECTIONS.items()}
                assert max(along, key=lambda name: along[name]) == mover.direction
                # Triangles are small: the still surroundings pull their flow down.
                least = 0.3 if clip.shape == "triangle" else 0.6
                assert least < along[mover.direction] / clip.speed < 1.1
            still = np.ones((64, 64), dtype=bool)
            for mover in (clip.target, clip.distractor):
                x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
                still &= np.hypot(x - mover.center[0], y - mover.center[1]) > 2 * RADIUS
            assert np.abs(np.median(fields[:, still], axis=(0, 1))).max() < 0.16  # one step


def test_the_apertures_keep_apart_and_move_alike() -> None:
    shapes = Counter[str]()
    for place in range(64):
        clip = make_clip(np.random.default_rng(place), place % 8)
        target, distractor = clip.target, clip.distractor
        assert math.dist(target.center, distractor.center) > 2.5 * RADIUS
        assert all(RADIUS < c < 64 - RADIUS for c in (*target.center, *distractor.center))
        assert distractor.tint == "blue"
        assert target.direction != distractor.direction
        assert 1 <= clip.speed <= 2
        shapes[clip.shape] += 1
    assert set(shapes) == {"disc", "square", "triangle", "hexagon"}


@pytest.mark.slow
def test_every_pair_of_directions_is_as_likely() -> None:
    pairs = Counter[tuple[str, str]]()
    for place in range(240):
        clip = make_clip(np.random.default_rng(place), place % 8)
        pairs[clip.target.direction, clip.distractor.direction] += 1
    assert len(pairs) == 12
    assert min(pairs.values()) >= 8  # 20 expected


def test_a_frame_does_not_depend_on_the_direction() -> None:
    clips = [make_clip(np.random.default_rng(5), label) for label in range(4)]  # red, 4 directions
    assert len({clip.target.direction for clip in clips}) == 4
    for clip in clips[1:]:
        assert clip.target.center == clips[0].target.center
        np.testing.assert_array_equal(clip.frames[0], clips[0].frames[0])
        assert (clip.frames[1] != clips[0].frames[1]).any()


def test_drift_is_exact_between_pixels_and_blurs_nothing() -> None:
    texture = two_movers_clips._texture(np.random.default_rng(0))
    for velocity in ((1.5, 0.0), (0.0, -1.5)):
        frames = two_movers_clips._drift(texture, velocity, 3)
        step = np.rint([2 * velocity[1], 2 * velocity[0]]).astype(
            int
        )  # of two frames: rows, columns
        moved = np.roll(frames[0], step, axis=(0, 1))[4:-4, 4:-4]  # what rolls in is another part
        np.testing.assert_allclose(frames[2][4:-4, 4:-4], moved, atol=1e-4)
        # Half a pixel on, linear interpolation would lose 5 % of the deviation.
        assert frames[1].std() == pytest.approx(frames[0].std(), rel=0.02)


def test_tints_show_in_color_and_not_in_grey() -> None:
    red, green = (make_clip(np.random.default_rng(6), label) for label in (0, 4))
    for first, second in zip(red.frames, green.frames, strict=True):
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(int) for frame in (first, second)]
        assert np.abs(grey[0] - grey[1]).max() <= 1  # rounding
    for tint in TINTS.values():
        assert tint @ [0.299, 0.587, 0.114] == pytest.approx(0, abs=1e-9)
    for clip, strongest in ((red, 0), (green, 1)):
        target = clip.frames[:, inside(clip.target.center)].mean(axis=(0, 1))
        distractor = clip.frames[:, inside(clip.distractor.center)].mean(axis=(0, 1))
        assert (target.argmax(), distractor.argmax()) == (strongest, 2)


def test_one_seed_gives_one_dataset_whatever_the_workers(split: Split, tmp_path: Path) -> None:
    # Fewer clips, too: what others there are changes nothing.
    jobs, _ = two_movers._jobs(tmp_path, {"num_train": 4, "num_test": 0, "seed": SEED})
    two_movers._make_videos(jobs, workers=1)
    for job, video in zip(jobs, split.train[:4], strict=True):
        assert job.video.name == video.name
        assert job.video.path.read_bytes() == video.path.read_bytes()


def test_another_seed_part_or_place_gives_another_clip() -> None:
    keys = ((3, 0, 0), (4, 0, 0), (3, 1, 0), (3, 0, 8))
    clips = [make_clip(np.random.default_rng(key), 0) for key in keys]
    assert len({clip.target.center for clip in clips}) == len(keys)


def make(root: Path, count: Path) -> None:
    """Make it, and write to `count` how many clips are drawn for it."""

    def draw(jobs: Sequence[two_movers._Job], workers: int) -> None:
        count.write_text(str(len(jobs)))
        _make_videos(jobs, workers)

    _make_videos = two_movers._make_videos
    with mock.patch.object(two_movers, "_make_videos", draw):
        two_movers.read_two_movers(str(root), TRAIN, TEST, SEED, workers=1)


def start(root: Path, count: Path) -> ForkServerProcess:
    process = multiprocessing.get_context("forkserver").Process(target=make, args=(root, count))
    process.start()
    return process


def check_complete(root: Path, split: Split) -> None:
    """Nothing but the dataset is in its folder, and no folder of a making beside it."""
    again = two_movers.read_two_movers(str(root), TRAIN, TEST, SEED)
    for video, other in zip([*again.train, *again.test], [*split.train, *split.test], strict=True):
        assert video.path.is_relative_to(root)
        assert video.path.read_bytes() == other.path.read_bytes()
        assert stored_flow(root / "flow", video.name).num_fields == 31
    assert {path.name for path in root.iterdir()} == CONTENTS
    assert len(list((root / "videos").rglob("*"))) == len(CLASSES) + TRAIN + TEST
    assert {path.name for path in (root / "flow").iterdir()} == {
        *("u", "v", "sources", "flow.json")
    }
    assert not list(root.resolve().parent.glob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "least"), [("*.mp4", 3), ("frame000031.jpg", 1)])
def test_a_killed_making_counts_as_nothing_and_is_continued(
    moment: str, least: int, tmp_path: Path, split: Split
) -> None:
    """Killed while clips are drawn, and while their flow is computed."""
    root, draft = tmp_path / "made", tmp_path / f".made.two_movers-1-{TRAIN}-{TEST}-{SEED}.part"
    process = start(root, tmp_path / "count")
    end = time.monotonic() + 240
    while len(list(draft.rglob(moment))) < least and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    process.join()
    before = {file.name: file.stat().st_mtime_ns for file in draft.rglob("*.mp4")}
    assert len(before) >= least
    assert not root.exists()
    make(root, tmp_path / "count")
    assert int((tmp_path / "count").read_text()) == TRAIN + TEST - len(before)
    check_complete(root, split)
    for file in root.rglob("*.mp4"):
        assert before.get(file.name, file.stat().st_mtime_ns) == file.stat().st_mtime_ns


@pytest.mark.slow
def test_of_two_makings_at_once_the_second_waits(tmp_path: Path, split: Split) -> None:
    counts = [tmp_path / name for name in ("first", "second")]
    makings = [start(tmp_path / "made", count) for count in counts]
    for making in makings:
        making.join(240)
    assert [making.exitcode for making in makings] == [0, 0]
    assert [count.read_text() for count in counts if count.exists()] == [str(TRAIN + TEST)]
    check_complete(tmp_path / "made", split)


@pytest.mark.parametrize("how", ["empty", "link to empty", "link to nothing"])
def test_an_empty_folder_is_filled(how: str, tmp_path: Path) -> None:
    root = place = tmp_path / "made"
    if how != "empty":
        (tmp_path / "disk").mkdir()
        place = tmp_path / "disk" / "place"
        root.symlink_to(place)
    if how != "link to nothing":
        place.mkdir()
    split = two_movers.read_two_movers(str(root), 1, 1, SEED)
    assert root.is_symlink() == (how != "empty")
    assert {path.name for path in place.iterdir()} == CONTENTS
    assert split.train[0].path.is_file()


def test_a_mount_point_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "mounted"
    root.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == root)
    with pytest.raises(UserError, match=r"mounted is a mount point.*give a folder in it as"):
        two_movers.read_two_movers(str(root), 8, 8, 0)
    assert list(tmp_path.rglob("*")) == [root]


def test_what_is_made_is_only_read(
    root: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_movers, "_make", None)  # a call would fail
    assert two_movers.read_two_movers(str(root), TRAIN, TEST, SEED) == split


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 4}, "seed=3, not seed=4"),
        ({"num_train": 24, "num_test": 16}, "num_train=16, num_test=8, not num_train=24, num_test"),
    ],
)
def test_a_folder_of_other_parameters_is_refused(
    root: Path, split: Split, changed: dict[str, int], difference: str
) -> None:
    arguments: dict[str, Any] = {"num_train": TRAIN, "num_test": TEST, "seed": SEED, **changed}
    with pytest.raises(UserError, match=difference) as error:
        two_movers.read_two_movers(str(root), **arguments)
    assert f"data.dataset.root=... or delete {root}" in str(error.value)


@pytest.mark.parametrize(
    "name", ["videos/a.mp4", "train.csv", ".private/.thesis.part", ".hidden", ".lock"]
)
def test_a_folder_of_unknown_origin_is_refused(name: str, tmp_path: Path) -> None:
    """A checkpoint names the folder: what somebody else has in it must stay."""
    file = tmp_path / "made" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=r"unknown origin.*give an empty or a new folder"):
        two_movers.read_two_movers(str(tmp_path / "made"), 8, 8, 0)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "mine"


def test_files_that_come_while_it_is_made_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its folder and beside; what has been made waits for an empty folder."""
    root = tmp_path / "made"
    mine = [root / "train.csv", root / ".private" / ".thesis.part", tmp_path / ".thesis.part"]

    def interfere(jobs: object) -> str:
        for file in mine:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("mine")
        return "video,class\n"

    with monkeypatch.context() as patched:
        patched.setattr(two_movers, "_table", interfere)
        with pytest.raises(UserError, match=r"cannot be made in .*not empty"):
            two_movers.read_two_movers(str(root), 1, 1, 0)
    assert [file.read_text() for file in mine] == ["mine"] * 3
    root.rename(tmp_path / "elsewhere")
    two_movers.read_two_movers(str(root), 1, 1, 0)
    assert {path.name for path in root.iterdir()} == CONTENTS
    assert mine[2].read_text() == "mine"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": 2}, "data.split=2 does not exist"),
        ({"num_train": 0}, "num_train=0: needs an int"),
        ({"num_test": "many"}, "num_test=many: needs an int"),
        ({"seed": -1}, "seed=-1: needs an int"),
        ({"workers": 0}, "workers=0: needs an int"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, int], message: str
) -> None:
    arguments: dict[str, Any] = {"num_train": 8, "num_test": 8, "seed": 0, **wrong}
    with pytest.raises(UserError, match=message):
        two_movers.read_two_movers(str(tmp_path / "new"), **arguments)
    assert not (tmp_path / "new").exists()


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made in"):
        two_movers.read_two_movers(str(tmp_path / "file" / "new"), 8, 8, 0)


def test_without_libx264_the_videos_are_mpeg4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    (job,), _ = two_movers._jobs(tmp_path, {"num_train": 1, "num_test": 0, "seed": SEED})
    two_movers._make_video(job)
    frames = make_clip(np.random.default_rng(job.seed), job.video.label).frames
    file = VideoFile(job.video.path)
    assert file.num_frames == 32
    assert np.abs(frames_of(file, range(32)).astype(float) - frames).mean() < 6
