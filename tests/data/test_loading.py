"""What is said when a video hangs its decoder or takes the process along."""

import gc
import multiprocessing
import os
import signal
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from src.data.faults import SkipBrokenVideos
from src.data.loading import VideoLoader
from src.data.videos import Video
from src.utils.errors import UserError


class Videos:
    """Numbers, but for one video that does what `fate` says."""

    def __init__(self, fate: str) -> None:
        self.fate = fate
        self.videos = [Video(f"v{i}", Path(f"videos/v{i}.avi"), 0) for i in range(6)]

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        if draw[0] == 3 and self.fate == "hangs":
            time.sleep(60)
        if draw[0] == 3 and self.fate == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.fate == "collects":
            gc.collect()
        if draw[0] == 3 and self.fate == "fails":
            raise RuntimeError("a bug")
        return {"label": draw[0]}


def loader(fate: str, workers: int, **options: Any) -> VideoLoader:
    draws = [(index, 0) for index in range(6)]
    dataset = SkipBrokenVideos(Videos(fate), workers, replace=False, seed=0)
    return VideoLoader(dataset, sampler=draws, num_workers=workers, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fate", "what", "method", "timeout"),
    [
        ("hangs", "within data.loader.timeout=3 seconds", "fork", 3),
        ("crashes", "process died", "fork", 60),
        # It shares by other means, and its server hears of the end, not this process.
        ("crashes", "process died", "forkserver", 10),
    ],
)
def test_the_video_is_named(fate: str, what: str, method: str, timeout: int) -> None:
    others = set(multiprocessing.active_children())
    with pytest.raises(UserError, match=rf"{what}.*under way: videos/v3\.avi\. "):
        list(loader(fate, 2, timeout=timeout, multiprocessing_context=method))
    # Whoever lets go of the loader need not wait.
    assert set(multiprocessing.active_children()) <= others


@pytest.mark.slow
def test_a_dead_worker_is_told_of_at_once_after_a_stage_too() -> None:
    """Lightning puts back the signal handlers from before it, and torch sets its own once."""
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(UserError, match="process died"):
            list(loader("crashes", 2, timeout=60, multiprocessing_context="fork"))
        assert time.monotonic() - began < 30
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def test_between_two_videos_nothing_hangs() -> None:
    """A batch is late, and the moment when it is asked for is between two of its videos."""
    batches = loader("reads", 0)
    batches.timeout = 60  # which torch gives to loaders with workers alone
    late = RuntimeError("DataLoader timed out after 60 seconds")
    assert not batches.goes_on(late)  # nothing has been read at all
    batches.dataset[0, 0]
    assert batches.dataset.under_way() == []
    assert batches.goes_on(late)
    assert not batches.goes_on(RuntimeError("a bug"))


def test_other_errors_stay_what_they_are() -> None:
    for workers in (0, 1):
        with pytest.raises(RuntimeError, match="a bug"):
            list(loader("fails", workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_under_way_in_the_end(workers: int) -> None:
    batches = loader("reads", workers)
    assert [int(batch["label"]) for batch in batches] == list(range(6))
    assert batches.dataset.under_way() == []


class Cycle:
    """Garbage that only the collector finds, and that tells where it has been freed."""

    def __init__(self, told: Path) -> None:
        self.told, self.itself = told, self

    def __del__(self) -> None:
        with self.told.open("a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.mark.slow
def test_workers_do_not_free_what_is_ours(tmp_path: Path) -> None:
    """A decoder would wait there for the end of threads that are not in a forked process."""
    gc.collect()
    gc.disable()
    try:
        Cycle(tmp_path / "freed")
        labels = [int(batch["label"]) for batch in loader("collects", 2)]
        assert not (tmp_path / "freed").exists()
    finally:
        gc.enable()
    assert labels == list(range(6))
    gc.collect()
    assert (tmp_path / "freed").read_text() == f"{os.getpid()}\n"


def test_workers_end_with_the_last_use_of_their_loader() -> None:
    """Not when garbage is collected: until then they would keep files and pipes open."""
    used = loader("nothing", 1, persistent_workers=True)
    gone = weakref.ref(used)
    gc.disable()
    try:
        batches = iter(used)
        del used, batches
        assert gone() is None
    finally:
        gc.enable()
