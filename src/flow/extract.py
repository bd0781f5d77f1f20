"""Extract the flow of many videos into JPEG files, in parallel, and go on after a stop."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Self

import cv2
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from src.data.sources import Uint8
from src.data.video_file import VideoFile
from src.errors import UserError
from src.flow.computed import ComputedFlow
from src.flow.settings import FILE_NAME, FlowSettings
from src.hardware import usable_cores

ENDINGS = ".avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .webm .wmv"
# OpenCV's default, hence the released flow's. On real flow it errs by a small fraction of a grey
# level on average, in half the bytes of a lossless file.
JPEG_QUALITY = 95
PARTIAL = ".partial"  # videos under way, moved to u/ and v/ when they are complete

log = logging.getLogger(__name__)


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


def find_videos(folder: Path) -> list[Path]:
    """Find the videos in a folder and its subfolders, sorted; a single file stands for itself.

    Hidden files and folders are left out.

    Raises:
        UserError: the folder does not exist or holds no video.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"input {folder} does not exist: give a folder of videos or a video")
    videos = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        videos += [Path(parent, name) for name in files if not name.startswith(".")]
    videos = sorted(video for video in videos if video.suffix.lower() in ENDINGS.split())
    if not videos:
        raise UserError(f"no video in {folder}: looked for files ending in {ENDINGS}")
    return videos


def extract_flow(
    videos: Sequence[Path], output: Path, settings: FlowSettings, workers: int | None = None
) -> Extraction:
    """Write each video's flow as `<output>/{u,v}/<video stem>/frame%06d.jpg`, from 1, 8-bit grey.

    Field i goes from frame i to frame i + 1: a video of n frames has n - 1 fields. Videos whose
    flow is already there are left alone; a broken video is reported in the result and the rest
    goes on. The settings are written to `<output>/flow.json` first. Stopped at whatever moment,
    the same call goes on where it was.

    Args:
        videos: video files; their stems must differ.
        output: the folder to write to, made if need be.
        settings: algorithm, size and quantisation.
        workers: processes, None for every core that this process may use.

    Raises:
        UserError: two videos of one stem, wrong settings, an output that holds other flow or
            cannot be written to, or a worker process that died.
    """
    settings.make()  # a wrong name or parameter shows before anything is written
    workers = usable_cores() if workers is None else workers
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers={workers} is not a number of processes, 1 or more")
    by_name = _by_name(videos)
    start = time.monotonic()
    try:
        _claim(output, settings)
        there = _names(output / "u") & _names(output / "v")
        todo = {name: video for name, video in by_name.items() if name not in there}
        frames, failed = _run(todo, output, settings, workers) if todo else (0, {})
    except OSError as error:
        raise UserError(f"cannot write flow to {output}: {error}") from error
    return Extraction(
        done=len(todo) - len(failed),
        reused=len(by_name) - len(todo),
        failed=failed,
        frames=frames,
        seconds=time.monotonic() - start,
    )


def _by_name(videos: Iterable[Path]) -> dict[str, Path]:
    by_name: dict[str, Path] = {}
    for video in videos:
        other = by_name.setdefault(video.stem, video)
        if other is not video:
            raise UserError(
                f"{other} and {video} would share the flow folder {video.stem}: rename one of them"
            )
    return by_name


def _claim(output: Path, settings: FlowSettings) -> None:
    """Write flow.json, or make sure that what is there was made with the same settings."""
    existing = FlowSettings.load(output)
    if existing is None:
        if _names(output / "u") or _names(output / "v"):
            raise UserError(
                f"{output} holds flow without {FILE_NAME}, so made in an unknown way: "
                "give another output folder"
            )
        output.mkdir(parents=True, exist_ok=True)
        settings.save(output)
        return
    differences = _differences(existing, settings)
    if differences:
        raise UserError(
            f"{output} holds flow made with other settings ({'; '.join(differences)}): give "
            f"another output folder, or the settings of {output / FILE_NAME}"
        )


def _differences(existing: FlowSettings, settings: FlowSettings) -> list[str]:
    there, here = asdict(existing), asdict(settings)
    parameters_there, parameters_here = there.pop("parameters"), here.pop("parameters")
    if existing.algorithm == settings.algorithm:  # of two algorithms they have nothing in common
        there |= parameters_there
        here |= parameters_here
    return [
        f"{key} {there.get(key)} there, {here.get(key)} now"
        for key in here | there
        if there.get(key) != here.get(key)
    ]


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _run(
    todo: dict[str, Path], output: Path, settings: FlowSettings, workers: int
) -> tuple[int, dict[str, str]]:
    """Extract in parallel; the number of frames, and the reasons for the videos that failed."""
    context = _context()
    stop, running = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, _start_worker, (stop,))
    try:
        # `running` is closed before the pool waits for its workers: nothing is left to wait for
        # but, after Ctrl-C or an error, videos under way.
        with stop, pool, running, _Progress(len(todo)) as progress:
            jobs = {
                pool.submit(_extract_video, video, output, settings): name
                for name, video in todo.items()
            }
            for job in as_completed(jobs):
                try:
                    progress.advance(job.result())
                except UserError as error:
                    progress.fail(jobs[job], str(error))
    except BrokenProcessPool as error:
        under_way = ", ".join(sorted(_names(output / PARTIAL) & todo.keys()))
        raise UserError(
            f"a worker process died, of memory or of a video, at {under_way or 'its start'}; "
            "the same command goes on with the rest, and with workers=1 it shows the video"
        ) from error
    finally:
        for name in _names(output / PARTIAL) & todo.keys():  # others may be another process's
            shutil.rmtree(output / PARTIAL / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (output / PARTIAL).rmdir()
    return progress.frames, progress.failed


class _Progress:
    """A bar on a terminal; elsewhere a line of log at every tenth of the videos."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.frames = total, 0, 0
        self.failed: dict[str, str] = {}
        console = Console(stderr=True)
        self._log_lines = not console.is_terminal
        self._bar = Progress(
            BarColumn(), TextColumn("{task.description}"), console=console, disable=self._log_lines
        )
        self._task = self._bar.add_task(f"0/{total} videos", total=total)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, frames: int) -> None:
        """Count a video that is complete."""
        self.frames += frames
        self._step()

    def fail(self, name: str, reason: str) -> None:
        """Count a video that cannot be extracted."""
        self.failed[name] = reason
        self._step()

    def _step(self) -> None:
        self.done += 1
        seconds = time.monotonic() - self._start
        left = timedelta(seconds=round(seconds / self.done * (self.total - self.done)))
        text = f"{self.done}/{self.total} videos, {self.frames / seconds:.1f} frames/s, {left} left"
        if self.failed:
            text += f", {len(self.failed)} failed"
        self._bar.update(self._task, completed=self.done, description=text)
        tenths = [10 * done // self.total for done in (self.done - 1, self.done)]
        if self._log_lines and tenths[0] != tenths[1]:
            log.info(text)


def _context() -> BaseContext:
    """How workers start: never by a plain fork, which copies locks that threads may hold."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, not by each worker
    return context


def _start_worker(stop: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, see _leave
    cv2.setNumThreads(1)  # a process per core already
    threading.Thread(target=_leave, args=(stop,), daemon=True).start()


def _leave(stop: Connection) -> None:
    """End this worker when the parent closes its end of the pipe, or dies in any way."""
    with contextlib.suppress(EOFError, OSError):
        stop.recv_bytes()
    os._exit(1)


def _extract_video(video: Path, output: Path, settings: FlowSettings) -> int:
    """Write one video's flow, all of it or nothing; the number of its frames."""
    partial = output / PARTIAL / video.stem
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    for component in "uv":
        (partial / component).mkdir(parents=True)
    fields = 0
    try:
        for field in _fields(video, settings):
            fields += 1
            for component, image in zip("uv", field, strict=True):
                _write(partial / component / f"frame{fields:06d}.jpg", image)
    except cv2.error as error:
        raise UserError(f"video {video} has no flow: {str(error).splitlines()[0]}") from error
    for component in "uv":
        target = output / component / video.stem
        target.parent.mkdir(exist_ok=True)
        # Only one of the two can be there, of a run killed between them: it counts as not done.
        shutil.rmtree(target, ignore_errors=True)
        (partial / component).rename(target)
    partial.rmdir()
    return fields + 1


def _fields(video: Path, settings: FlowSettings) -> Iterator[tuple[Uint8, Uint8]]:
    """The video's quantised fields u, v (H, W), in order."""
    frames = VideoFile(video)
    source = ComputedFlow(frames, settings.make(), settings.short_side, settings.bound)
    return source.flow(range(source.num_fields))


def _write(file: Path, image: Uint8) -> None:
    # cv2.imwrite would hide why it cannot write.
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    file.write_bytes(jpeg.tobytes())
