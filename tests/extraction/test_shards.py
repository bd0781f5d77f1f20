"""One extraction on many machines and devices, and how far it is."""

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch

from src.extraction import worker
from src.extraction.extract import Display, extract_flow
from src.extraction.formats import JpegFolders
from src.extraction.products import Product
from src.extraction.shards import Shard, read_shard, worker_devices
from src.flow.algorithm import FlowAlgorithm
from src.flow.settings import FILE_NAME, FlowSettings
from src.media.find_videos import find_videos
from src.media.images import open_images
from src.media.skipped import SOURCES
from src.utils.errors import UserError
from src.utils.files import exclusive_lock
from src.utils.processes import usable_cores
from tests.builders import moving_texture, write_video
from tests.extraction.test_extract_formats import images_in

DIS = FlowSettings("dis", {"finest_scale": 0}, short_side=64)
TORCH = FlowSettings("tvl1_torch", short_side=64)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(5):
        frames = moving_texture((number - 2.0, 1.0), frames=4 + number)
        write_video(folder / f"video{number}.mp4", frames)
    return find_videos(folder)


# --- shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_share_out_everything_evenly(count: int) -> None:
    items = list(range(20))
    parts = [Shard(index, count).of(items) for index in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(np.diff(part).tolist() == [count] * (len(part) - 1) for part in parts)


def test_settings_of_shards() -> None:
    assert read_shard(None) == Shard(1, 1)
    assert read_shard("3/64") == Shard(3, 64)
    assert Shard(3, 64).label("flow") == "flow-03-of-64"
    assert Shard(1, 1).label("flow") == "flow"
    for wrong in ("0/4", "5/4", "1/0", "3", "a/b", 3, "-1/4"):
        with pytest.raises(UserError, match="shard") as error:
            read_shard(wrong)
        assert "shard=3/64" in str(error.value)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, int], Shard]:
    """The part that Slurm gives a task of a job array."""
    keys = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
    for key in keys:
        monkeypatch.delenv(key, raising=False)

    def shard(*values: int) -> Shard:
        for key, value in zip(keys, values, strict=True):
            monkeypatch.setenv(key, str(value))
        return read_shard("slurm")

    return shard


@pytest.mark.parametrize("first", [0, 1, 17])
def test_shards_of_a_job_array(first: int, slurm: Callable[[int, int, int], Shard]) -> None:
    shards = [slurm(task, first, 64) for task in range(first, first + 64)]
    assert shards == [Shard(index, 64) for index in range(1, 65)]


def test_no_or_an_odd_job_array(slurm: Callable[[int, int, int], Shard]) -> None:
    with pytest.raises(UserError, match=r"SLURM_ARRAY_TASK_ID.*sbatch --array=1-64"):
        read_shard("slurm")
    with pytest.raises(UserError, match="gaps"):
        slurm(9, 5, 2)  # --array=5,9


@pytest.mark.parametrize("format", ["jpeg", "zip"])
def test_shards_at_the_same_time_make_what_one_run_makes(
    format: str, videos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    everything = [tmp_path / "broken.mp4", *videos]
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    extract_flow(videos, whole, DIS, workers=2)
    both_begin = Barrier(2)

    def run(index: int) -> tuple[int, int]:
        both_begin.wait()
        shard = Shard(index, 2)
        result = extract_flow(everything, shared, DIS, 1, format=format, shard=shard)
        return result.done, len(result.failed)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, (1, 2))) == [(2, 1), (3, 0)]
    failed = (shared / "failed-1-of-2.csv").read_text()
    assert failed.startswith(f"video,reason\n{everything[0]},")
    (shared / "failed-1-of-2.csv").unlink()
    names = {"zip": {"flow-1-of-2.zip", "flow-2-of-2.zip"}, "jpeg": {"u", "v", SOURCES}}[format]
    assert {entry.name for entry in shared.iterdir()} == names | {FILE_NAME}
    assert images_in(shared) == images_in(whole)
    assert open_images(shared).videos("v") == open_images(whole).videos("v")
    # Whatever the shards were: all together, nothing is left to do.
    again = extract_flow(videos, shared, DIS, workers=1, format=format)
    assert (again.done, again.reused) == (0, 5)


def test_more_shards_than_videos(videos: list[Path], tmp_path: Path) -> None:
    result = extract_flow(videos, tmp_path, DIS, workers=1, format="zip", shard=Shard(6, 6))
    assert (result.done, result.reused) == (0, 0)
    assert {entry.name for entry in tmp_path.iterdir()} == {FILE_NAME}


def test_names_are_compared_across_shards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would share"):
        extract_flow([Path("x/a.avi"), Path("y/a.avi")], tmp_path, DIS, shard=Shard(1, 2))


def hold(path: Path, held: Event) -> None:
    with exclusive_lock(path):
        held.set()
        time.sleep(60)


def test_one_process_for_each_shard(videos: list[Path], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=hold, args=(tmp_path / ".flow-1-of-5.lock", held))
    other.start()
    assert held.wait(60)
    with pytest.raises(UserError, match=f"is in use by process {other.pid} on "):
        extract_flow(videos, tmp_path, DIS, workers=1, shard=Shard(1, 5))
    other.kill()
    other.join()
    assert extract_flow(videos, tmp_path, DIS, workers=1, shard=Shard(1, 5)).done == 1


# --- flow.json -----------------------------------------------------------------------------------


def test_the_first_settings_stay(tmp_path: Path) -> None:
    DIS.save(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    FlowSettings("tvl1").save(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_only_one_of_two_settings_gets_a_folder(tmp_path: Path) -> None:
    both = (DIS, FlowSettings("tvl1"))
    for number in range(20):
        barrier = Barrier(2)

        def claimed(
            settings: FlowSettings, folder: Path = tmp_path / str(number), begin: Barrier = barrier
        ) -> bool:
            begin.wait()
            try:
                Product(folder, settings).claim("jpeg")
            except UserError:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            winners = list(pool.map(claimed, both))
        assert sorted(winners) == [False, True]
        assert FlowSettings.load(tmp_path / str(number)) == both[winners.index(True)]


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 10**5,
        b'{"algorithm": [], "parameters": {}, "short_side": 64, "bound": 20}',
        b'{"algorithm": "os.system", "parameters": {}, "short_side": 64, "bound": 20}',
        b'{"algorithm": "dis", "parameters": 3, "short_side": 64, "bound": 20}',
        b'{"algorithm": "dis", "parameters": {}, "short_side": "64", "bound": 20}',
        b'{"algorithm": "dis", "parameters": {}, "short_side": 64, "bound": NaN}',
    ],
)
def test_settings_of_strangers(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(
        UserError,
        match=r"flow\.json is not readable|no flow algorithm|flow\.(short_side|bound)=(64|nan): ",
    ):
        FlowSettings.load(tmp_path)


def test_settings_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError("this file system has none")

    monkeypatch.setattr(os, "link", link)
    DIS.save(tmp_path)
    assert FlowSettings.load(tmp_path) == DIS
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_the_record_names_versions(tmp_path: Path) -> None:
    for settings, names in ((DIS, set()), (TORCH, {"torch", "torchvision"})):
        folder = tmp_path / settings.algorithm
        folder.mkdir()
        settings.save(folder)
        record = json.loads((folder / FILE_NAME).read_text())
        assert record["versions"].keys() == {"opencv", "project"} | names
        assert record["step"] == 1
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "device", "workers", "expected"),
    [
        (0, None, None, ["cpu"] * usable_cores()),
        (0, None, 3, ["cpu"] * 3),
        (3, None, None, ["cuda:0", "cuda:1", "cuda:2"]),
        (2, None, 3, ["cuda:0", "cuda:1", "cuda:0"]),
        (2, "cuda", None, ["cuda:0", "cuda:1"]),
        (2, "cuda:1", None, ["cuda:1"]),
        (2, "cpu", None, ["cpu"] * usable_cores()),
        (0, "cuda", None, ["cuda"]),  # which the algorithm refuses, with the reason
    ],
)
def test_workers_and_their_devices(
    gpus: int,
    device: str | None,
    workers: int | None,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert worker_devices(TORCH, device, workers) == expected
    assert worker_devices(DIS, None, workers) == ["cpu"] * (workers or usable_cores())


def test_opencv_has_no_other_device(tmp_path: Path) -> None:
    assert worker_devices(DIS, "cpu", 1) == ["cpu"]
    with pytest.raises(UserError, match="dis runs on the CPU only"):
        extract_flow([Path("a.avi")], tmp_path / "flow", DIS, device="cuda")
    assert not (tmp_path / "flow").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_absent_device_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no flow on device cuda"):
        extract_flow([Path("a.avi")], tmp_path / "flow", TORCH, device="cuda")
    assert not (tmp_path / "flow").exists()


class Recording(FlowSettings):
    """Tells its device in place of failing."""

    def make(self, device: str = "cpu") -> FlowAlgorithm:
        raise UserError(f"made on {device}")


def test_a_worker_takes_its_device(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="made on cuda:2"):
        worker.setup(
            2, [Product(tmp_path, Recording("dis"))], JpegFolders, ["cuda:0", "cuda:1", "cuda:2"]
        )


@pytest.mark.slow
def test_an_algorithm_of_torch(videos: list[Path], tmp_path: Path) -> None:
    settings = FlowSettings("tvl1_torch", {"nscales": 2, "warps": 1}, short_side=32)
    result = extract_flow(videos[:1], tmp_path, settings, workers=1, device="cpu")
    assert (result.done, result.failed) == (1, {})
    assert open_images(tmp_path).videos("u") == {"video0": 3}


# --- progress ------------------------------------------------------------------------------------


def test_lines_of_log_at_tenths(caplog: pytest.LogCaptureFixture) -> None:
    """By size, as videos differ in length; one that fails counts as well."""
    caplog.set_level(logging.INFO)
    videos = ((850, 90), (20, None), (60, 8), (70, 7))
    display = Display([size for size, _ in videos])
    for size, frames in videos:
        display.advance(size, frames)
    lines = [record.message for record in caplog.records]
    assert [line.partition(",")[0] for line in lines] == ["1/4 videos", "3/4 videos", "4/4 videos"]
    assert lines[-1].endswith(", 0:00:00 left, 1 failed")
    assert (display.frames, display.failed) == (105, 1)


def test_time_left_is_by_the_roots_of_sizes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 40 s for 400 bytes, 100 bytes take half as long, not a quarter."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(time, "monotonic", iter((0.0, 40.0)).__next__)
    Display([400, 100]).advance(400, 10)
    assert caplog.messages[-1].endswith(", 0:00:20 left")
