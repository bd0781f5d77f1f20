"""Extract the flow of many videos, in parallel, and go on after a stop."""

import csv
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

from filelock import FileLock, Timeout

from src.data.find_videos import check_names
from src.errors import UserError
from src.flow import worker
from src.flow.claim import claim
from src.flow.devices import worker_devices
from src.flow.formats import Format, format_class
from src.flow.progress import Display, Tally
from src.flow.settings import FlowSettings
from src.flow.shards import Shard
from src.flow.zip_writer import Image
from src.whole_files import whole
from src.workers import worker_pool

REFRESH = 0.5  # seconds between two looks at the workers' progress
ALL = Shard()


@dataclass(frozen=True)
class Extraction:
    """What `extract_flow` did.

    Args:
        done: videos extracted now.
        reused: videos whose flow was already there.
        failed: the reason for each video, by name, that has no flow.
        frames: frames read for the videos extracted now.
        seconds: wall-clock time it took.
    """

    done: int
    reused: int
    failed: dict[str, str]
    frames: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        """Frames per second over all workers, their start included."""
        return self.frames / self.seconds if self.seconds else 0.0


def extract_flow(
    videos: Sequence[Path],
    output: Path,
    settings: FlowSettings,
    workers: int | None = None,
    format: str = "jpeg",
    shard: Shard = ALL,
    device: str | None = None,
) -> Extraction:
    """Write each video's flow as images `{u,v}/<video stem>/frame%06d.jpg`, from 1, 8-bit grey.

    Field i goes from frame i to frame i + 1: a video of n frames has n - 1 fields. Videos whose
    flow is already there are left alone; a broken video is reported in the result and in
    `<output>/failed.csv`, and the rest goes on. The settings are written to `<output>/flow.json`
    first. Stopped at whatever moment, the same call goes on where it was. Shards may run at the
    same time, and their number may change when all that have begun are finished.

    Args:
        videos: video files; their stems must differ.
        output: the folder to write to, made if need be.
        settings: algorithm, size and quantisation.
        workers: processes; None for one per GPU if the algorithm runs on GPUs and there are some,
            else for every core that this process may use.
        format: jpeg for files in `output`, zip for files in an archive `<output>/flow.zip`.
        shard: the part of the videos to do; all shards share `output`.
        device: of an algorithm that can run on one: cpu, cuda:1, cuda for all GPUs, or None for
            the GPUs if there are any.

    Raises:
        UserError: two videos of one stem, wrong settings, an output that holds other flow,
            cannot be written to or is being written to, or a worker process that died.
    """
    devices = worker_devices(settings, device, workers)
    settings.make(devices[0])  # a wrong name or parameter shows before anything is written
    kind = format_class(format)
    check_names(videos)
    own = shard.of(videos)
    start = time.monotonic()
    try:
        claim(output, settings, format)
        with _working_folder(output, shard) as work:
            target = kind(output, shard.label("flow"))
            there = target.videos()
            todo = {video.stem: video for video in own if video.stem not in there}
            frames, failed = _run(todo, work, target, settings, devices) if todo else (0, {})
            target.finish()
            reasons = {todo[name]: reason for name, reason in failed.items()}
            _write_failed(output / f"{shard.label('failed')}.csv", reasons)
    except OSError as error:
        raise UserError(f"cannot write flow to {output}: {error}") from error
    return Extraction(
        done=len(todo) - len(failed),
        reused=len(own) - len(todo),
        failed=failed,
        frames=frames,
        seconds=time.monotonic() - start,
    )


@contextmanager
def _working_folder(output: Path, shard: Shard) -> Iterator[Path]:
    """An empty folder for parts of the output, which only this process uses."""
    name = shard.label("flow")
    lock = FileLock(output / f".{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"another process is writing {name} to {output}: wait for it, or stop it"
        ) from error
    work = output / f".{name}.partial"
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
        work.mkdir()
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _run(
    todo: Mapping[str, Path],
    work: Path,
    target: Format,
    settings: FlowSettings,
    devices: Sequence[str],
) -> tuple[int, dict[str, str]]:
    """Extract in parallel; the number of frames, and the reasons for the videos that failed."""
    sizes = {name: _size(video) for name, video in todo.items()}
    tallies = [Tally() for _ in devices[: len(todo)]]
    arguments = (settings, type(target), devices, tallies)
    names: dict[Future[tuple[int, list[Image]]], str] = {}
    finished: Queue[Future[tuple[int, list[Image]]]] = Queue()
    failed: dict[str, str] = {}
    total = 0
    try:
        with (
            Display(len(todo), sum(sizes.values()), tallies) as display,
            worker_pool(len(tallies), worker.__name__, worker.setup, *arguments) as pool,
        ):
            # The largest first: a long video at the end would keep one worker busy, the rest idle.
            for name in sorted(todo, key=lambda name: sizes[name], reverse=True):
                job = pool.submit(worker.extract_video, todo[name], sizes[name], work / name)
                names[job] = name
                job.add_done_callback(finished.put)
            while display.done < len(todo):
                display.show()
                try:
                    job = finished.get(timeout=REFRESH)
                except Empty:
                    continue
                name = names[job]
                try:
                    frames, images = job.result()
                    target.take(work / name, name, images)
                    total += frames
                except UserError as error:
                    failed[name] = str(error)
                display.done, display.failed = display.done + 1, len(failed)
            display.show()
    except BrokenProcessPool as error:
        begun = {entry.name for entry in work.iterdir()} & todo.keys() - failed.keys()
        raise UserError(
            f"a worker process died, of memory or of a video, at {', '.join(sorted(begun))}"
            f"{'' if begun else 'its start'}; the same command goes on with the rest, and with "
            "workers=1 it shows the video"
        ) from error
    return total, failed


def _size(video: Path) -> int:
    try:
        return max(1, video.stat().st_size)
    except OSError:  # the worker tells
        return 1


def _write_failed(file: Path, reasons: Mapping[Path, str]) -> None:
    """Write the videos that failed, and why; no file if there are none."""
    if not reasons:
        file.unlink(missing_ok=True)
        return
    with (
        whole(file) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
    ):
        rows = csv.writer(table, lineterminator="\n")
        rows.writerows([("video", "reason"), *reasons.items()])
