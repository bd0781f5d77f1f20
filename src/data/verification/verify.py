"""Check a dataset's frames and flow against all its lists, and write its manifest."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from src.data.splits import Split, Video
from src.data.verification.inspection import Inspector, Job, Look, Modality, size_text
from src.data.verification.lists import Lists, key_of, read_lists
from src.data.verification.look_cache import LookCache
from src.data.verification.look_cache import key_of as cache_key
from src.data.verification.manifest import Manifest, Row, place_of, videos_folder, where_of
from src.data.verification.problems import is_fatal
from src.data.verification.scan import Lost, in_parallel
from src.errors import UserError
from src.hardware import usable_cores

log = logging.getLogger(__name__)
_STATTERS = 16  # threads: a network file system answers slowly, but many at a time
_ROUNDING = 2  # pixels by which the longer side of resized flow may be off
Looks = dict[tuple[Modality, str], Look]  # by the video's key
Details = dict[str, dict[str, str]]  # by code and video: what exactly


@dataclass(frozen=True)
class Verification:
    """What `verify` has found.

    Args:
        lists: the official lists.
        places: of frames and flow as they were given, None where there is nothing.
        videos: the folder of video files, for commands that make flow.
        flow: where it lies or is to lie, None if that is not given.
        manifest: a row per listed video.
        details: by problem and video, what exactly.
        extra: by "rgb" and "flow", what no list names.
        checked: looks taken now.
        cached: looks taken from the cache.
        seconds: wall-clock time of all of it.
        full: whether everything was decoded.
    """

    lists: Lists
    places: Mapping[str, str | None]
    videos: Path
    flow: str | None
    manifest: Manifest
    details: Details
    extra: Mapping[str, Sequence[str]]
    checked: int
    cached: int
    seconds: float
    full: bool

    @property
    def failed(self) -> bool:
        """Whether a video cannot be trained on."""
        return any(is_fatal(code) for code in self.details)


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

    Looks are kept beside the manifest: stopped at whatever moment, the same call goes on where it
    was, and a later one looks at what has changed.

    Args:
        dataset, rgb, flow, stack, decoder, cache_dir: as `VideoDataModule` takes them.
        manifest: the .csv to write.
        full: decode everything; else the first, the middle and the last image.
        recheck: look at all again, whatever is kept.
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
        raise UserError("manifest=null: give a file to write, such as data.manifest=manifest.csv")
    manifest_file = Path(manifest)
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
    inspector = Inspector(frames, fields, full)
    jobs = _jobs(lists.videos, frames, fields)
    cache_file = manifest_file.with_name(f".{manifest_file.stem}.looks.jsonl")
    with LookCache(cache_file, fresh=recheck) as cache:
        looks, cached = _look(inspector, jobs, cache, workers, timeout)
    details = _problems(lists.videos, looks, frames is not None, fields is not None, stack)
    given = {"rgb": rgb if frames else None, "flow": flow if fields else None}
    result = Verification(
        lists=lists,
        places=given,
        videos=folder,
        flow=None if flow == ON_THE_FLY else flow,
        manifest=_manifest(manifest_file, lists, given, inspector, jobs, looks, details, full),
        details=details,
        extra=_extra(lists, frames, fields),
        checked=len(looks) - cached,
        cached=cached,
        seconds=time.monotonic() - start,
        full=full,
    )
    result.manifest.save()
    return result


def _jobs(
    videos: Sequence[Video], frames: RGBLibrary | None, fields: FlowLibrary | None
) -> dict[tuple[Modality, str], Job]:
    """What is there to look at, by the listed video's key."""
    jobs: dict[tuple[Modality, str], Job] = {}
    libraries: tuple[tuple[Modality, RGBLibrary | FlowLibrary | None], ...] = (
        ("rgb", frames),
        ("flow", fields),
    )
    for modality, library in libraries:
        for video, found in zip(videos, library.find(videos) if library else (), strict=False):
            if found:
                jobs[modality, key_of(video)] = Job(modality, found)
    return jobs


def _look(
    inspector: Inspector,
    jobs: Mapping[tuple[Modality, str], Job],
    cache: LookCache,
    workers: int,
    timeout: float,
) -> tuple[Looks, int]:
    """A look at each job, and how many came from the cache."""
    with ThreadPoolExecutor(_STATTERS) as pool:
        identities = pool.map(lambda job: _kept_as(inspector, job), jobs.values())
        kept_as = dict(zip(jobs, identities, strict=True))
    known = {place: cache.get(key, inspector.full) for place, key in kept_as.items() if key}
    looks = {place: look for place, look in known.items() if look}
    cached = len(looks)
    place_of_job = {jobs[place]: place for place in jobs if place not in looks}
    with _progress() as progress:
        task = progress.add_task("frames and flow of videos", total=len(place_of_job))
        for job, result in in_parallel(inspector, [*place_of_job], workers, timeout):
            place = place_of_job[job]
            if isinstance(result, Look):
                if key := kept_as[place]:
                    cache.add(key, inspector.full, result)
                looks[place] = result
            else:  # not kept: the machine may be at fault
                code = "crash" if isinstance(result, Lost) else "broken"
                reason = f"{type(result).__name__}: {result}" if code == "broken" else str(result)
                looks[place] = Look(problems={code: f"{job.video.path}: {reason}"})
            progress.advance(task)
    cache.keep_only(key for key in kept_as.values() if key)
    return looks, cached


def _kept_as(inspector: Inspector, job: Job) -> str | None:
    """Under which key a look is kept; None of what is not there, such as a link's file."""
    try:
        return cache_key(inspector.identity(job))
    except OSError:
        return None


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    return Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )


# --- what is wrong -------------------------------------------------------------------------------


def _problems(
    videos: Sequence[Video], looks: Looks, with_frames: bool, with_flow: bool, stack: int
) -> Details:
    details: Details = defaultdict(dict)
    modalities: list[Modality] = ["rgb"] if with_frames else []
    if with_flow:
        modalities.append("flow")
    for video in videos:
        key = key_of(video)
        for modality in modalities:
            look = looks.get((modality, key))
            if look is None:
                details[f"{modality}_missing"][key] = ""
            else:
                for code, detail in look.problems.items():
                    details[f"{modality}_{code}"][key] = detail
        for code, detail in _together(
            looks.get(("rgb", key)), looks.get(("flow", key)), stack
        ).items():
            details[code][key] = detail
    for code, found in (
        ("rgb_duplicate", _duplicates("rgb", looks)),
        ("flow_duplicate", _duplicates("flow", looks)),
        ("flow_scale", _other_scale(looks)),
    ):
        for key, detail in found.items():
            # Flow of the same frames is the same.
            if code != "flow_duplicate" or key not in details["rgb_duplicate"]:
                details[code][key] = detail
    return {code: found for code, found in details.items() if found}


def _together(frames: Look | None, flow: Look | None, stack: int) -> dict[str, str]:
    """What is wrong with frames and flow of one video that are each as they should be."""
    found = {}
    # Of damaged ones, number and size say nothing more.
    frames, flow = (
        look if look and look.problems.keys() <= {"sizes"} else None for look in (frames, flow)
    )
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


def _duplicates(modality: Modality, looks: Looks) -> dict[str, str]:
    """For each video with the content of others, the first of them."""
    same: dict[str, list[str]] = defaultdict(list)
    for (which, key), look in looks.items():
        if which == modality and look.fingerprint and not look.problems:
            same[look.fingerprint].append(key)
    return {
        key: f"as {keys[0] if key != keys[0] else keys[1]}"
        for keys in same.values()
        if len(keys) > 1
        for key in keys
    }


def _other_scale(looks: Looks) -> dict[str, str]:
    """The videos whose flow has another smaller side than most have."""
    sides = {key: min(look.size) for (which, key), look in looks.items() if which == "flow"}
    usual = Counter(side for side in sides.values() if side).most_common(1)
    return {
        key: f"smaller side {side}, of most {usual[0][0]}"
        for key, side in sides.items()
        if side and side != usual[0][0]
    }


def _extra(
    lists: Lists, frames: RGBLibrary | None, fields: FlowLibrary | None
) -> dict[str, list[str]]:
    """What is there and in no list."""
    names = {video.name.lower() for video in lists.videos} | lists.unused
    extra: dict[str, list[str]] = {"rgb": [], "flow": []}
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


# --- the manifest --------------------------------------------------------------------------------


def _manifest(
    file: Path,
    lists: Lists,
    places: Mapping[str, str | None],
    inspector: Inspector,
    jobs: Mapping[tuple[Modality, str], Job],
    looks: Looks,
    details: Details,
    full: bool,
) -> Manifest:
    codes: dict[str, list[str]] = defaultdict(list)
    for code, found in details.items():
        for key in found:
            codes[key].append(code)
    parts = lists.parts()
    classes = next(iter(lists.splits.values())).classes
    rows = {}
    for video in lists.videos:
        key = key_of(video)
        frames = looks.get(("rgb", key), Look())
        flow = looks.get(("flow", key), Look())
        rows[key] = Row(
            video=key,
            name=video.name,
            label=classes[video.label],
            splits=parts[key],
            frames=frames.count,
            fields=flow.count,
            height=frames.size[0],
            width=frames.size[1],
            flow_height=flow.size[0],
            flow_width=flow.size[1],
            fps=round(frames.fps, 3),
            decoder=frames.decoder,
            problems=" ".join(codes[key]),
            **_where(inspector, [jobs.get(("rgb", key)), jobs.get(("flow", key))]),
        )
    absolute = {
        modality: place_of(place, lists.videos) if place else None
        for modality, place in places.items()
    }
    about = {"made": time.strftime("%Y-%m-%d %H:%M:%S"), "full": full}
    return Manifest(file, absolute, rows, about)


def _where(inspector: Inspector, jobs: Iterable[Job | None]) -> dict[str, str]:
    """The manifest's "rgb", "u" and "v"."""
    where = {}
    for job in jobs:
        if job is None:
            continue
        if job.modality == "rgb" and not isinstance(inspector.rgb, FrameFolders):
            where["rgb"] = job.video.path.name
            continue
        tree, parts = inspector.images(job)
        where |= {component: where_of(images, tree.root) for component, images in parts.items()}
    return where
