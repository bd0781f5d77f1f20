"""Extract flow and frames of many videos, in parallel, and continue after a stop."""

import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from src.extraction import worker
from src.extraction.formats import FORMATS, Format
from src.extraction.products import FLOW, Product
from src.extraction.provenance import changed, sources_kept
from src.extraction.shards import Shard, read_shard, worker_devices
from src.flow.settings import FlowSettings, mark_upright, may_lie
from src.media.decoding import is_turned
from src.media.find_videos import check_names, find_videos
from src.utils.console import progress
from src.utils.errors import UserError, visible
from src.utils.files import exclusive_lock, write_csv
from src.utils.processes import worker_pool

log = logging.getLogger(__name__)
ALL = Shard()


@dataclass(frozen=True)
class Extraction:
    """What `extract` did."""

    done: int  # videos of which something was extracted now
    reused: int  # videos of which all was already there
    failed: dict[str, str]  # why, by name
    frames: int  # read for the videos extracted now
    seconds: float  # of wall-clock time, the start of workers included


def extract_folder(
    folder: Path, products: Sequence[Product], shard: object, **options: Any
) -> bool:
    """Extract the videos of a folder and print what was done; whether none has failed.

    Args:
        folder: as `find_videos` takes it.
        shard: as `read_shard` takes it.
        products, options: see `extract`.
    """
    result = extract(find_videos(folder), products, shard=read_shard(shard), **options)
    for name, reason in result.failed.items():
        print(f"failed: {visible(name)}: {reason}")
    kinds = " and ".join(product.kind for product in products)
    print(
        f"{kinds} of {result.done} videos extracted, {result.reused} already there, "
        f"{len(result.failed)} failed; {result.frames} frames in {result.seconds:.1f} s, "
        f"{result.frames / result.seconds:.1f} frames/s"
    )
    for product in products:
        print(f"{product.kind} in {product.output}, its settings in {product.record}")
    return not result.failed


def extract_flow(
    videos: Sequence[Path], output: Path, settings: FlowSettings, *arguments: Any, **options: Any
) -> Extraction:
    """Write each video's flow as images `{u,v}/<video stem>/frame%06d.jpg`, from 1, 8-bit grey.

    Field i goes from frame i to frame i + 1: a video of n frames has n - 1 fields. More arguments,
    and all else, are those of `extract`.
    """
    return extract(videos, [Product(output, settings)], *arguments, **options)


def extract(
    videos: Sequence[Path],
    products: Sequence[Product],
    workers: int | None = None,
    format: str = "jpeg",
    shard: Shard = ALL,
    device: str | None = None,
) -> Extraction:
    """Write each video's flow, frames or both, decoding it once.

    Flow is as of `extract_flow`; frames are images `rgb/<video stem>/frame%06d.jpg`, from 1.

    Videos that are already there are left alone, unless their file has changed since; a broken
    video is reported in the result and in `<output>/failed.csv`, and the rest continues. The
    settings are written to flow.json and frames.json first. Stopped at whatever moment, the same
    call resumes where it was. Shards may run at the same time, and their number may change when all
    that have begun are finished.

    Args:
        videos: video files; their stems must differ.
        products: what is made of them; of each kind one, into a folder of its own.
        workers, device: see `worker_devices`.
        format: jpeg for files in the output, zip for files in archives of 200 videos,
            `<output>/flow.zip`, `flow-2.zip`, ....
        shard: the part of the videos to do; all shards share the outputs.

    Raises:
        UserError: two videos of one stem, wrong settings, an output that holds other images,
            cannot be written to or is being written to, or a worker process that died.
    """
    flow = next((p.settings for p in products if isinstance(p.settings, FlowSettings)), None)
    devices = worker_devices(flow, device, workers)
    if flow:
        flow.make(devices[0])  # a wrong name or parameter shows before anything is written
    if format not in FORMATS:
        raise UserError(f"format={format}: choose from {', '.join(FORMATS)}")
    check_names(videos)
    if len({product.output.resolve() for product in products}) < len(products):
        raise UserError(f"frames={products[-1].output}: the flow goes there, give another folder")
    own = shard.of(videos)
    start = time.monotonic()
    outputs = " and ".join(str(product.output) for product in products)
    try:
        with ExitStack() as stack:
            targets: dict[str, Format] = {}
            done: dict[str, set[str]] = {}
            for product in products:
                product.claim(format)
                label = shard.label(product.kind)
                work = stack.enter_context(_working_folder(product.output, label))
                target = FORMATS[format](product.output, product.components, work, label)
                done[product.kind] = _up_to_date(target, product, own, shard)
                targets[product.kind] = target
            todo = _missing(own, done)
            frames, failed = _run(todo, targets, products, devices) if todo else (0, {})
            for product in products:
                kind = product.kind
                targets[kind].finish()
                reasons = {video: of[kind] for video, of in failed.items() if kind in of}
                _write_failed(product.output / f"{shard.label('failed')}.csv", reasons)
    except OSError as error:
        raise UserError(f"cannot write to {outputs}: {error}") from error
    return Extraction(
        done=len(todo) - len(failed),
        reused=len(own) - len(todo),
        failed={video.stem: "; ".join(dict.fromkeys(of.values())) for video, of in failed.items()},
        frames=frames,
        seconds=time.monotonic() - start,
    )


def _missing(videos: Sequence[Path], done: Mapping[str, set[str]]) -> dict[Path, list[str]]:
    """The videos of which something is not there yet: the kinds of it."""
    missing = {v: [kind for kind in done if v.stem not in done[kind]] for v in videos}
    return {video: kinds for video, kinds in missing.items() if kinds}


def _up_to_date(target: Format, product: Product, own: Sequence[Path], shard: Shard) -> set[str]:
    """Names of the videos whose images are there, once those are dropped that are outdated.

    They are if they are not of their video's file as it is seen now.

    Raises:
        UserError: they lie in an archive, or all shards would have to look at once.
    """
    output = product.output
    lies = product.kind == FLOW and may_lie(output)
    if lies and shard.count > 1:
        raise UserError(
            f"{product.record} is from before turned videos were seen upright: extract once "
            "without shard, which looks for them"
        )
    extracted = target.videos()
    done = [video for video in own if video.stem in extracted]
    outdated = {video.stem: "have changed" for video in changed(done, sources_kept(output))}
    if lies:
        with ThreadPoolExecutor() as pool:
            turned = pool.map(is_turned, done)
            outdated |= {
                v.stem: "are turned" for v, is_so in zip(done, turned, strict=True) if is_so
            }
    if outdated:
        target.drop(outdated)
        kinds = Counter(outdated.values()).most_common()
        reasons = ", ".join(f"{count} {reason}" for reason, count in kinds)
        log.info("%s: %s of videos that %s is extracted again", output, product.kind, reasons)
    if lies:
        mark_upright(output)
    return extracted - outdated.keys()


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
    todo: Mapping[Path, Sequence[str]],
    targets: Mapping[str, Format],
    products: Sequence[Product],
    devices: Sequence[str],
) -> tuple[int, dict[Path, dict[str, str]]]:
    """Extract in parallel; the number of frames, and of videos that failed why each kind did."""
    sizes = {video: _size(video) for video in todo}
    devices = devices[: len(todo)]
    format = type(next(iter(targets.values())))
    videos: dict[Future[tuple[int, dict[str, str]]], Path] = {}
    failed: dict[Path, dict[str, str]] = {}
    try:
        with (
            Display(sizes.values()) as display,
            worker_pool(
                len(devices), worker.__name__, worker.setup, products, format, devices
            ) as pool,
        ):
            # The largest first: a long video at the end would keep one worker busy, the rest idle.
            for video in sorted(todo, key=lambda video: sizes[video], reverse=True):
                parts = {kind: targets[kind].work / video.stem for kind in todo[video]}
                videos[pool.submit(worker.extract_video, video, parts)] = video
            for job in as_completed(videos):
                video = videos[job]
                frames, reasons = job.result()
                for kind in todo[video]:
                    if kind not in reasons:
                        targets[kind].take(targets[kind].work / video.stem, video.stem)
                if reasons:
                    failed[video] = reasons
                display.advance(sizes[video], None if reasons else frames)
    except BrokenProcessPool as error:
        for target in targets.values():
            target.finish()
        parts_begun = {entry.name for t in targets.values() for entry in t.work.iterdir()}
        begun = sorted(v.stem for v in todo if v.stem in parts_begun and v not in failed)
        raise UserError(
            f"a worker process died, of memory or of a video, at {', '.join(begun)}"
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
    rows = ((str(video), reason) for video, reason in reasons.items())
    write_csv(file, [("video", "reason"), *rows])


class Display:
    """A bar on a terminal, elsewhere a line of log at every tenth, for videos of so many bytes.

    What a video costs is taken to be the square root of its bytes. By the bytes themselves the time
    left was a third of what it took: large files come first, and have more bytes per frame.
    """

    def __init__(self, sizes: Collection[int]) -> None:
        self.videos, self.cost = len(sizes), sum(map(math.isqrt, sizes))
        self.done = self.failed = self.frames = self.spent = 0
        self._bar = progress(time_left=False)
        self._logs, self._tenths = self._bar.disable, 0
        self._task = self._bar.add_task(f"0/{self.videos} videos", total=self.cost)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, size: int, frames: int | None) -> None:
        """A video of `size` bytes is done; it has failed if it has no number of frames."""
        self.done, self.spent = self.done + 1, self.spent + math.isqrt(size)
        self.frames, self.failed = self.frames + (frames or 0), self.failed + (frames is None)
        seconds, part = time.monotonic() - self._start, self.spent / self.cost
        text = f"{self.done}/{self.videos} videos, {self.frames / seconds:.1f} frames/s"
        text += f", {timedelta(seconds=round(seconds / part - seconds))} left"
        if self.failed:
            text += f", {self.failed} failed"
        self._bar.update(self._task, completed=self.spent, description=text)
        if self._logs and int(10 * part) > self._tenths:
            self._tenths = int(10 * part)
            log.info(text)
