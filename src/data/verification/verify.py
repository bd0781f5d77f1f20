"""Check a dataset's frames and flow against all its lists, and write its manifest."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.data.dataset import COUNT_TOLERANCE
from src.data.find_videos import videos_below
from src.data.library import (
    ON_THE_FLY,
    VIDEOS,
    FlowFolders,
    FlowLibrary,
    FrameFolders,
    RGBLibrary,
    open_flow,
    open_rgb,
)
from src.data.sources import Size
from src.data.splits import Split, Video, key_of
from src.data.verification.inspection import Job, VideoChecker, size_text
from src.data.verification.lists import Lists, read_lists
from src.data.verification.manifest import (
    PROBLEMS,
    Checks,
    Manifest,
    Modality,
    VideoCheck,
    place_of,
    videos_folder,
)
from src.errors import UserError
from src.hardware import usable_cores
from src.workers import WorkerCrashed, in_parallel

_STATTERS = 16  # threads: a network file system answers slowly, but many at a time
_ROUNDING = 2  # pixels by which the longer side of resized flow may be off
Details = dict[str, dict[str, str]]  # by code and video: what exactly


@dataclass(frozen=True)
class Verification:
    """What `verify` has found.

    Args:
        lists: the official lists.
        places: of frames and flow as they were given, None where there is nothing.
        videos: the folder of video files, for commands that make flow.
        flow: where it lies or is to lie, None if that is not given.
        manifest: a check of the frames and of the flow of every listed video.
        details: by problem and video, what exactly.
        extra: by "rgb" and "flow", what no list names.
        checked: videos' frames or flow checked now.
        cached: of which the manifest knew already.
        seconds: wall-clock time of all of it.
        full: whether everything was decoded.
    """

    lists: Lists
    places: Mapping[Modality, str | None]
    videos: Path
    flow: str | None
    manifest: Manifest
    details: Details
    extra: Mapping[Modality, Sequence[str]]
    checked: int
    cached: int
    seconds: float
    full: bool

    @property
    def failed(self) -> bool:
        """Whether a video cannot be trained on."""
        return any(PROBLEMS[code].fatal for code in self.details)


def verify(
    dataset: Callable[..., Split],
    rgb: str | None,
    flow: str | None,
    stack: int,
    manifest: str | None,
    decoder: str = "auto",
    cache_dir: str | None = None,
    full: bool = False,
    recheck: bool = False,
    workers: int | None = None,
    timeout: float = 300,
) -> Verification:
    """Look at every video of every split, in parallel, and write the manifest.

    Stopped at whatever moment, the same call goes on where it was, and a later one looks at what
    has changed.

    Args:
        dataset, rgb, flow, stack, decoder, cache_dir: as `VideoDataModule` takes them.
        manifest: the file to write, which also tells what has been checked before.
        full: decode everything; else the first, the middle and the last image.
        recheck: look at all again, whatever is known.
        workers: processes, None for every core that this process may use.
        timeout: seconds without any result after which the videos under way count as hung.

    Raises:
        UserError: there are no lists, neither frames nor flow, or the manifest cannot be written.
    """
    start = time.monotonic()
    workers = usable_cores() if workers is None else workers
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers={workers} is not a number of processes, 1 or more")
    if manifest is None:
        raise UserError("manifest=null: give a file to write: data.videos.manifest=manifest.jsonl")
    lists = read_lists(dataset)
    folder = videos_folder(lists.videos)
    frames = None
    if rgb and (folder if rgb == VIDEOS else Path(rgb)).exists():
        frames = open_rgb(rgb, decoder, cache_dir)
    fields = None
    if flow and flow != ON_THE_FLY and Path(flow).exists():
        fields = open_flow(flow, None, None, cache_dir)
    if frames is None and fields is None:
        raise UserError(
            f"neither frames ({folder if rgb == VIDEOS else rgb}) nor flow ({flow}) are there: "
            "data/README.md shows where they belong; data.rgb and data.flow give other places"
        )
    places: dict[Modality, str | None] = {
        "rgb": rgb if frames else None,
        "flow": flow if fields else None,
    }
    absolute = {m: place_of(place, lists.videos) if place else None for m, place in places.items()}
    checker = VideoChecker(frames, fields, full)
    jobs = _jobs(lists.videos, frames, fields)
    with ThreadPoolExecutor(_STATTERS) as pool:
        states = dict(zip(jobs, pool.map(checker.state, jobs.values()), strict=True))
    before = None if recheck else Manifest.load(Path(manifest))
    still_true = {
        key: check
        for key, check in (before.checks if before else {}).items()
        if check.state and check.state == states.get(key) and (check.full or not full)
    }
    cached, known = len(still_true), Manifest(Path(manifest), absolute, still_true)
    known.save()
    rest = {job: key for key, job in jobs.items() if key not in known.checks}
    for job, result in _results(checker, [*rest], workers, timeout):
        if isinstance(result, Exception):
            check = _without_check(job, result)
        else:
            check = replace(result, state=states[rest[job]])
        known.add(*rest[job], check)
    details = _complete(known, [m for m, place in places.items() if place], lists.videos, stack)
    known.save()
    return Verification(
        lists=lists,
        places=places,
        videos=folder,
        flow=None if flow == ON_THE_FLY else flow,
        manifest=known,
        details=details,
        extra=_extra(lists, frames, fields),
        checked=len(jobs) - cached,
        cached=cached,
        seconds=time.monotonic() - start,
        full=full,
    )


def _jobs(
    videos: Sequence[Video], frames: RGBLibrary | None, fields: FlowLibrary | None
) -> dict[tuple[Modality, str], Job]:
    """What is there to look at, by the listed video's key."""
    jobs: dict[tuple[Modality, str], Job] = {}
    libraries: dict[Modality, RGBLibrary | FlowLibrary | None] = {"rgb": frames, "flow": fields}
    for modality, library in libraries.items():
        for video, found in zip(videos, library.find(videos) if library else (), strict=False):
            if found:
                jobs[modality, key_of(video)] = (modality, found)
    return jobs


def _results(
    checker: VideoChecker, jobs: Sequence[Job], workers: int, timeout: float
) -> Iterator[tuple[Job, VideoCheck | Exception]]:
    """A check of each job, or what became of it, with a bar of progress."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("frames and flow of videos", total=len(jobs))
        for result in in_parallel(checker, jobs, workers, timeout):
            yield result
            progress.advance(task)


def _without_check(job: Job, error: Exception) -> VideoCheck:
    """What is told of a video whose check failed; without a state: the machine may be at fault."""
    modality, video = job
    if isinstance(error, WorkerCrashed):
        return VideoCheck(problems={f"{modality}_crash": f"{video.path}: {error}"})
    reason = f"{video.path}: {type(error).__name__}: {error}"
    return VideoCheck(problems={f"{modality}_broken": reason})


# --- what is wrong -------------------------------------------------------------------------------


def _complete(
    known: Manifest, modalities: Sequence[Modality], videos: Sequence[Video], stack: int
) -> Details:
    """Add to the checks what is missing, and what shows beside others only; gives all problems."""
    checks = known.checks
    others: dict[tuple[Modality, str], dict[str, str]] = defaultdict(dict)
    for video in videos:
        key = key_of(video)
        for modality in modalities:
            if (modality, key) not in checks:
                checks[modality, key] = VideoCheck()
                others[modality, key] = {f"{modality}_missing": ""}
        frames, flow = _sound(checks.get(("rgb", key))), _sound(checks.get(("flow", key)))
        others[modalities[-1], key] |= _of_both(frames, flow, stack)
    for key, detail in _duplicates("rgb", checks).items():
        others["rgb", key]["rgb_duplicate"] = detail
    for key, detail in _duplicates("flow", checks).items():
        if "rgb_duplicate" not in others.get(("rgb", key), {}):  # flow of the same frames is
            others["flow", key]["flow_duplicate"] = detail
    for key, detail in _other_scale(checks).items():
        others["flow", key]["flow_scale"] = detail
    known.checks = {
        (modality, key): replace(checks[modality, key], others=others[modality, key])
        for modality in modalities
        for key in map(key_of, videos)
    }
    known.complete = True
    details: Details = defaultdict(dict)
    for (_, key), check in known.checks.items():
        for code, detail in {**check.problems, **check.others}.items():
            details[code][key] = detail
    return dict(details)


def _sound(check: VideoCheck | None) -> VideoCheck | None:
    """A check whose numbers and sizes can be compared: not of what is missing or damaged."""
    if check is None or not check.count or any(not c.endswith("_sizes") for c in check.problems):
        return None
    return check


def _of_both(frames: VideoCheck | None, flow: VideoCheck | None, stack: int) -> dict[str, str]:
    """What is wrong with frames and flow of one video that are each as they should be."""
    found = {}
    if frames and flow:
        difference = flow.count - (frames.count - 1)
        numbers = f"{frames.count} frames, {flow.count} flow fields"
        if abs(difference) > COUNT_TOLERANCE:
            found["flow_count"] = numbers
        elif difference:
            found["flow_uneven"] = numbers
        if _other_shape(frames.size, flow.size):
            found["flow_aspect"] = (
                f"frames of {size_text(frames.size)}, flow of {size_text(flow.size)}"
            )
    lengths = [frames.count] if frames else []
    if flow:
        lengths.append(flow.count + 1)
    if lengths and min(lengths) <= stack:
        found["short"] = f"{min(lengths)} frames, a stack of {stack} flow fields"
    return found


def _other_shape(frame: Size, field: Size) -> bool:
    scale = min(field) / min(frame)
    return any(abs(a * scale - b) > _ROUNDING for a, b in zip(frame, field, strict=True))


def _duplicates(modality: Modality, checks: Checks) -> dict[str, str]:
    """For each video with the content of others, the first of them."""
    same: dict[str, list[str]] = defaultdict(list)
    for (which, key), check in checks.items():
        if which == modality and check.fingerprint and not check.problems:
            same[check.fingerprint].append(key)
    return {
        key: f"as {keys[0] if key != keys[0] else keys[1]}"
        for keys in same.values()
        if len(keys) > 1
        for key in keys
    }


def _other_scale(checks: Checks) -> dict[str, str]:
    """The videos whose flow has another smaller side than most have."""
    sides = {key: min(check.size) for (which, key), check in checks.items() if which == "flow"}
    usual = Counter(side for side in sides.values() if side).most_common(1)
    return {
        key: f"smaller side {side}, of most {usual[0][0]}"
        for key, side in sides.items()
        if side and side != usual[0][0]
    }


def _extra(
    lists: Lists, frames: RGBLibrary | None, fields: FlowLibrary | None
) -> dict[Modality, list[str]]:
    """What is there and in no list."""
    names = {video.name.lower() for video in lists.videos} | lists.unused
    extra: dict[Modality, list[str]] = {"rgb": [], "flow": []}
    if isinstance(frames, FrameFolders):
        extra["rgb"] = _unlisted(frames.tree.videos("rgb"), names)
    elif frames:
        folder = videos_folder(lists.videos)
        files = {video.path.relative_to(folder).as_posix().lower() for video in lists.videos}
        extra["rgb"] = [
            name
            for file in videos_below(folder)
            if (name := file.relative_to(folder).as_posix()).lower() not in files
            and file.stem.lower() not in lists.unused
        ]
    if isinstance(fields, FlowFolders):
        there = fields.tree.videos("u") | fields.tree.videos("v")
        extra["flow"] = _unlisted(there, names)
    return extra


def _unlisted(there: Iterable[str], names: set[str]) -> list[str]:
    return sorted(name for name in there if name.lower() not in names)
