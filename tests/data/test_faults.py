"""Videos that cannot be read: which error says so, and what comes in their place."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from src.data.faults import TRIES, Faults, SkipBrokenVideos
from src.data.loading import VideoLoader, collate
from src.data.videos import Video
from src.media.images import FrameImages, open_images
from src.media.video_file import VideoFile
from src.utils.errors import UserError
from tests.builders import CLIPS, write_video

COUNT = 12


def hang() -> None:
    time.sleep(60)


def fail() -> None:
    raise UserError("video /a/b.avi cannot be decoded")


def vanish() -> None:
    Path("/nowhere/b.avi").read_bytes()


def err() -> None:
    raise IndexError("a bug")


class Videos:
    """Numbers, but for some videos, which do something else."""

    def __init__(self, fates: dict[int, Callable[[], None]]) -> None:
        self.fates = fates
        self.videos = [Video(f"v{i}", Path(f"videos/v{i}.avi"), 0) for i in range(COUNT)]

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        if draw[0] in self.fates:
            self.fates[draw[0]]()
        return {"label": draw[0], "video": f"v{draw[0]}"}


def read(
    fates: dict[int, Callable[[], None]],
    workers: int = 0,
    replace: bool = True,
    epoch: int = 0,
    time_limit: float = 0,
    timeout: float = 0,
) -> tuple[list[int], dict[str, str]]:
    """What a loader gives in batches of 3, and what it could not read."""
    videos = Videos(fates)
    dataset = SkipBrokenVideos(videos, workers, replace, seed=1, time_limit=time_limit)
    loader = VideoLoader(
        dataset,
        batch_size=3,
        sampler=[(index, epoch) for index in range(COUNT)],
        num_workers=workers,
        collate_fn=collate,
        timeout=timeout,
    )
    labels = []
    for batch in loader:
        assert set(batch) == {"label", "video"}
        labels += batch["label"].tolist()
    assert dataset.under_way() == []
    return labels, loader.failed


@pytest.mark.parametrize("workers", [0, 2])
def test_another_takes_the_place(workers: int) -> None:
    labels, failed = read({2: fail, 7: vanish}, workers)
    assert set(failed) == {"v2", "v7"}
    assert failed["v2"] == "video /a/b.avi cannot be decoded"
    assert "No such file" in failed["v7"]
    assert len(labels) == COUNT
    assert not {2, 7} & set(labels)
    assert [place for place, label in enumerate(labels) if place != label] == [2, 7]


def test_which_depends_on_pass_and_video_alone() -> None:
    first, _ = read({2: fail})
    assert read({2: fail, 7: vanish}, workers=2)[0][:7] == first[:7]
    assert {read({2: fail}, epoch=epoch)[0][2] for epoch in range(8)} != {first[2]}


@pytest.mark.parametrize("replace", [False, True])
def test_too_many_open_files_are_no_videos_fault(
    replace: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else videos would count as broken, or as wrong, because of where they are read."""
    video = write_video(tmp_path / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8))

    def no_more(*_: Any, **__: Any) -> None:
        raise av.error.OSError(errno.EMFILE, "Too many open files", str(video))

    monkeypatch.setattr("src.media.video_file.av.open", no_more)

    def open_video() -> None:
        VideoFile(video)

    for fate in (open_video, partial(os_error, errno.ENFILE)):
        with pytest.raises(UserError, match=r"too many files are open to read .*v2\.avi.*ulimit"):
            read({2: fate}, replace=replace)


def os_error(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_replaced_in_evaluation(workers: int) -> None:
    """Also where a full batch is lost."""
    labels, failed = read({1: fail, 6: fail, 7: fail, 8: vanish}, workers, replace=False)
    assert labels == [0, 2, 3, 4, 5, 9, 10, 11]
    assert set(failed) == {"v1", "v6", "v7", "v8"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_hangs_is_given_up(workers: int) -> None:
    labels, failed = read({4: hang}, workers, time_limit=0.5)
    assert list(failed) == ["v4"]
    assert "videos/v4.avi took longer than 0.5 seconds" in failed["v4"]
    assert len(labels) == COUNT


@pytest.mark.slow
def test_a_batch_of_videos_that_hang_is_waited_for() -> None:
    """Each of them in half of the time that a batch may take, together in more."""
    labels, failed = read({3: hang, 4: hang, 5: hang}, 1, time_limit=1, timeout=2)
    assert set(failed) == {"v3", "v4", "v5"}
    assert len(labels) == COUNT


def test_a_video_in_time_is_not_given_up_later() -> None:
    videos, rung = Videos({}), []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    try:
        SkipBrokenVideos(videos, 0, True, 0, time_limit=0.1)[0, 0]
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not rung


@pytest.mark.parametrize("replace", [True, False])
def test_a_bug_stays_one(replace: bool) -> None:
    with pytest.raises(IndexError, match="a bug"):
        read({3: err}, replace=replace)


def test_when_nothing_can_be_read_the_place_is_to_blame() -> None:
    fates: dict[int, Callable[[], None]] = dict.fromkeys(range(COUNT), vanish)
    with pytest.raises(UserError, match=rf"none of {TRIES} of {TRIES} videos .* No such file"):
        read(fates)
    with pytest.raises(UserError, match=r"not one video could be read, the first is v0: .*No such"):
        read(fates, replace=False)


def test_a_long_list_is_cut() -> None:
    text = str(Faults("videos are gone", 70, {f"v{i}": f"why {i}" for i in range(25)}))
    assert text.startswith("25 of 70 videos are gone: v0 (why 0), v1, v2, ")
    assert text.endswith(", v19 and 5 more")


class TestSources:
    """What a source raises when its video changes while it is read."""

    @pytest.mark.parametrize("change", ["emptied", "removed", "cut"])
    def test_a_video_file(self, change: str, tmp_path: Path) -> None:
        """Of a codec that is read from the first frame on, twice."""
        frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
        video = write_video(tmp_path / "v.avi", frames, codec="mpeg1video")
        source, data = VideoFile(video), video.read_bytes()
        video.unlink()
        if change != "removed":
            video.write_bytes(data[: len(data) // 2] if change == "cut" else b"")
        with pytest.raises(UserError, match=r"v\.avi changed while it was read"):
            list(source.rgb([3, 11]))

    def test_images_in_a_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "v"
        folder.mkdir()
        for number in (1, 2):
            (folder / f"frame{number:06d}.jpg").write_bytes(b"\xff\xd8\xff" if number == 2 else b"")
        source = FrameImages(open_images(tmp_path), "v")
        for index in (0, 1):
            with pytest.raises(UserError, match="is broken"):
                list(source.rgb([index]))
        shutil.rmtree(folder)
        with pytest.raises(UserError, match="cannot be read"):
            list(source.rgb([0]))

    @pytest.mark.skipif(not CLIPS.is_dir(), reason="no real clips here")
    def test_a_real_broken_clip(self) -> None:
        """What breaks off somewhere tells so when it comes to that; before, it is read."""
        source = VideoFile(CLIPS / "corrupted.mp4")
        with pytest.raises(UserError, match=r"corrupted\.mp4"):
            list(source.rgb(range(source.num_frames)))
