"""Extract the flow of many videos, in parallel, and continue after a stop."""

import csv
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from src.extraction import worker
from src.extraction.provenance import changed, sources_kept
from src.extraction.shards import Shard, worker_devices
from src.extraction.worker import FORMATS, Format
from src.flow.settings import FILE_NAME, FlowSettings, mark_upright, may_lie
from src.media.decoding import is_turned
from src.media.find_videos import check_names
from src.utils.console import progress
from src.utils.errors import UserError
from src.utils.files import atomic_write, exclusive_lock
from src.utils.processes import worker_pool

log = logging.getLogger(__name__)
ALL = Shard()


@dataclass(frozen=True)
class Extraction:
    """What `extract_flow` did."""

    done: int  # videos extracted now
    reused: int  # videos whose flow was already there
    failed: dict[str, str]  # why videos have no flow, by name
    frames: int  # read for the videos extracted now
    seconds: float  # of wall-clock time, the start of workers included


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
    flow is already there are left alone, unless their file has changed since; a broken video is
    reported in the result and in `<output>/failed.csv`, and the rest continues. The settings are
    written to `<output>/flow.json` first. Stopped at whatever moment, the same call resumes where
    it was. Shards may run at the same time, and their number may change when all that have begun
    are finished.

    Args:
        videos: video files; their stems must differ.
        output: the folder to write to, made if need be.
        settings: algorithm, size and quantization.
        workers, device: see `worker_devices`.
        format: jpeg for files in `output`, zip for files in archives of 200 videos,
            `<output>/flow.zip`, `flow-2.zip`, ....
        shard: the part of the videos to do; all shards share `output`.

    Raises:
        UserError: two videos of one stem, wrong settings, an output that holds other flow,
            cannot be written to or is being written to, or a worker process that died.
    """
    devices = worker_devices(settings, device, workers)
    settings.make(devices[0])  # a wrong name or parameter shows before anything is written
    if format not in FORMATS:
        raise UserError(f"format={format}: choose from {', '.join(FORMATS)}")
    check_names(videos)
    own = shard.of(videos)
    start = time.monotonic()
    try:
        claim(output, settings, format)
        label = shard.label("flow")
        with _working_folder(output, label) as work:
            target = FORMATS[format](output, work, label)
            _drop_outdated(target, output, own, shard)
            extracted = target.videos()
            todo = {video.stem: video for video in own if video.stem not in extracted}
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


def claim(output: Path, settings: FlowSettings, format: str) -> None:
    """Make the folder and write its flow.json, or make sure that what is there goes together.

    Raises:
        UserError: the folder holds flow in the other format, or made with other settings.
    """
    contents = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    formats = {
        "jpeg": bool(contents & {"u", "v"}),
        "zip": any(".zip" in name for name in contents),  # .zip.001, too
    }
    held = [name for name, is_held in formats.items() if is_held]
    if held and FILE_NAME not in contents:
        raise UserError(
            f"{output} holds flow without {FILE_NAME}, so made in an unknown way: "
            "give another output folder"
        )
    if held and held != [format]:
        raise UserError(
            f"{output} holds flow in format {held[0]}, not {format}: continue with "
            f"format={held[0]}, or give another output folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    settings.save(output)
    existing = FlowSettings.load(output, lying=True)  # another shard may have been faster
    if existing and (differences := _differences(existing, settings)):
        raise UserError(
            f"{output} holds flow made with other settings ({'; '.join(differences)}): give "
            f"another output folder, or the settings of {output / FILE_NAME}"
        )


def _drop_outdated(target: Format, output: Path, own: Sequence[Path], shard: Shard) -> None:
    """Drop flow that is not of its video's file as it is seen now, to be extracted again.

    Raises:
        UserError: it lies in an archive, or all shards would have to look at once.
    """
    lies = may_lie(output)
    if lies and shard.count > 1:
        raise UserError(
            f"{output / FILE_NAME} is from before turned videos were seen upright: extract once "
            "without shard, which looks for them"
        )
    extracted = target.videos()
    there = [video for video in own if video.stem in extracted]
    outdated = {video.stem: "have changed" for video in changed(there, sources_kept(output))}
    if lies:
        with ThreadPoolExecutor() as pool:
            turned = pool.map(is_turned, there)
            outdated |= {
                v.stem: "are turned" for v, is_so in zip(there, turned, strict=True) if is_so
            }
    if outdated:
        target.drop(outdated)
        kinds = Counter(outdated.values()).most_common()
        reasons = ", ".join(f"{count} {reason}" for reason, count in kinds)
        log.info("%s: flow of videos that %s is extracted again", output, reasons)
    if lies:
        mark_upright(output)


def _differences(existing: FlowSettings, settings: FlowSettings) -> list[str]:
    before, now = asdict(existing), asdict(settings)
    for record in (before, now):
        parameters = record.pop("parameters")
        if existing.algorithm == settings.algorithm:  # else they have nothing in common
            record |= parameters
    return [
        f"{key} {before.get(key)} there, {now.get(key)} now"
        for key in now | before
        if before.get(key) != now.get(key)
    ]


@contextmanager
def _working_folder(output: Path, label: str) -> Iterator[Path]:
    """An empty folder for parts of the output, which only this process uses."""
    work = output / f".{label}.partial"
    with exclusive_lock(output / f".{label}.lock"):
        try:
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
            work.mkdir()
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _run(
    todo: Mapping[str, Path],
    work: Path,
    target: Format,
    settings: FlowSettings,
    devices: Sequence[str],
) -> tuple[int, dict[str, str]]:
    """Extract in parallel; the number of frames, and the reasons for the videos that failed."""
    sizes = {name: _size(video) for name, video in todo.items()}
    devices = devices[: len(todo)]
    names: dict[Future[int], str] = {}
    failed: dict[str, str] = {}
    try:
        with (
            Display(len(todo), sum(sizes.values())) as display,
            worker_pool(
                len(devices), worker.__name__, worker.setup, settings, type(target), devices
            ) as pool,
        ):
            # The largest first: a long video at the end would keep one worker busy, the rest idle.
            for name in sorted(todo, key=lambda name: sizes[name], reverse=True):
                names[pool.submit(worker.extract_video, todo[name], work / name)] = name
            for job in as_completed(names):
                name, frames = names[job], None
                try:
                    frames = job.result()
                    target.take(work / name, name)
                except UserError as error:
                    failed[name] = str(error)
                display.advance(sizes[name], frames)
    except BrokenProcessPool as error:
        target.finish()
        begun = {entry.name for entry in work.iterdir()} & todo.keys() - failed.keys()
        raise UserError(
            f"a worker process died, of memory or of a video, at {', '.join(sorted(begun))}"
            f"{'' if begun else 'its start'}; rerun the same command for the rest, and with "
            "workers=1 it shows the video"
        ) from error
    return display.frames, failed


def _size(video: Path) -> int:
    try:
        return max(1, video.stat().st_size)
    except OSError:  # the worker reports it
        return 1


def _write_failed(file: Path, reasons: Mapping[Path, str]) -> None:
    """Write the videos that failed, and why; no file if there are none."""
    if not reasons:
        file.unlink(missing_ok=True)
        return
    with (
        atomic_write(file) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
    ):
        rows = csv.writer(table, lineterminator="\n")
        rows.writerows([("video", "reason"), *reasons.items()])


class Display:
    """A bar on a terminal, elsewhere a line of log at every tenth; the time left is by bytes."""

    def __init__(self, videos: int, size: int) -> None:
        self.videos, self.size = videos, size
        self.done = self.failed = self.frames = self.bytes = 0
        self._bar = progress(time_left=False)
        self._logs, self._tenths = self._bar.disable, 0
        self._task = self._bar.add_task(f"0/{videos} videos", total=size)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, size: int, frames: int | None) -> None:
        """A video of `size` bytes is done; it has failed if it has no number of frames."""
        self.done, self.bytes = self.done + 1, self.bytes + size
        self.frames, self.failed = self.frames + (frames or 0), self.failed + (frames is None)
        seconds, part = time.monotonic() - self._start, self.bytes / self.size
        text = f"{self.done}/{self.videos} videos, {self.frames / seconds:.1f} frames/s"
        text += f", {timedelta(seconds=round(seconds / part - seconds))} left"
        if self.failed:
            text += f", {self.failed} failed"
        self._bar.update(self._task, completed=self.bytes, description=text)
        if self._logs and int(10 * part) > self._tenths:
            self._tenths = int(10 * part)
            log.info(text)
