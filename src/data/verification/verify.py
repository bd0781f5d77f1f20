"""Check a dataset's frames and flow against all its lists, and write its manifest."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.data.splits import HMDB51_NAME, Split, Video, key_of
from src.data.stores import (
    ON_THE_FLY,
    VIDEOS,
    FlowFolders,
    FlowStore,
    FrameFolders,
    FrameStore,
    open_flow,
    open_rgb,
)
from src.data.verification.inspection import Job, VideoChecker
from src.data.verification.manifest import (
    PROBLEMS,
    Details,
    Manifest,
    Modality,
    VideoCheck,
    complete,
    place_of,
    videos_folder,
)
from src.media.find_videos import videos_below
from src.utils.console import progress
from src.utils.errors import UserError
from src.utils.machine import usable_cores
from src.utils.processes import WorkerCrashed, in_parallel

_SPLITS = (1, 2, 3)
_STATTERS = 16  # threads: a network file system answers slowly, but many at a time


@dataclass(frozen=True)
class Lists:
    """All splits of a dataset.

    Args:
        videos: each that a split trains or tests on, once.
        splits: by their numbers.
        unused: names, in lower case, that the lists mention for no split.
    """

    videos: tuple[Video, ...]
    splits: dict[int, Split]
    unused: frozenset[str]

    def parts(self) -> dict[str, str]:
        """The splits that each video is in, such as "1:train 3:test", by its key."""
        parts: dict[str, list[str]] = defaultdict(list)
        for number, part, video in self._members():
            parts[key_of(video)].append(f"{number}:{part}")
        return {key: " ".join(where) for key, where in parts.items()}

    def leaks(self) -> list[str]:
        """Groups, or single videos, that are in train and test of one split."""
        sides: dict[tuple[int, int, str], set[str]] = defaultdict(set)
        for number, part, video in self._members():
            sides[number, video.label, video.alike].add(part)
        return [
            f"split {number}: {group} of class {self.splits[number].classes[label]}"
            for (number, label, group), parts in sides.items()
            if len(parts) > 1
        ]

    def shared_films(self) -> dict[int, int]:
        """HMDB51's test videos from a film that trains other classes, by split; none elsewhere.

        The official lists keep a film's clips of one class together, those of two classes not.
        """
        shared = {}
        for number, split in self.splits.items():
            films = {film for video in split.train if (film := _film(video, split))}
            shared[number] = sum(_film(video, split) in films for video in split.test)
        return {number: count for number, count in shared.items() if count}

    def _members(self) -> Iterator[tuple[int, str, Video]]:
        for number, split in self.splits.items():
            for part in ("train", "test"):
                for video in getattr(split, part):
                    yield number, part, video


def read_lists(dataset: Callable[..., Split]) -> Lists:
    """Read every split that there is.

    Args:
        dataset: as `VideoDataModule` takes it; called with `split=1` and so on.

    Raises:
        UserError: there is none.
    """
    splits: dict[int, Split] = {}
    reasons = []
    for number in _SPLITS:
        try:
            splits[number] = dataset(split=number)
        except UserError as error:
            reasons.append(error)
    if not splits:
        raise reasons[0]
    videos = {
        key_of(video): video for split in splits.values() for video in (*split.train, *split.test)
    }
    names = {video.name.lower() for video in videos.values()}
    return Lists(tuple(videos.values()), splits, frozenset(_mentioned(dataset) - names))


def _mentioned(dataset: Any) -> set[str]:
    """Names in the list files, in lower case: HMDB51's mark some as in neither part."""
    places: dict[str, Any] = getattr(dataset, "keywords", {})
    if not (places.get("root") and places.get("lists")):
        return set()
    return {
        line.partition(".avi")[0].rpartition("/")[2].lower()
        for file in Path(places["root"], places["lists"]).glob("*.txt")
        for line in file.read_text().splitlines()
        if ".avi" in line
    }


def _film(video: Video, split: Split) -> str | None:
    match = HMDB51_NAME.fullmatch(video.name)
    return match["group"].removesuffix(f"_{split.classes[video.label]}") if match else None


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

    Stopped at whatever moment, the same call resumes where it was, and a later one looks at what
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
    details = complete(known, [m for m, place in places.items() if place], lists.videos, stack)
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
    videos: Sequence[Video], frames: FrameStore | None, fields: FlowStore | None
) -> dict[tuple[Modality, str], Job]:
    """What is there to look at, by the listed video's key."""
    jobs: dict[tuple[Modality, str], Job] = {}
    libraries: dict[Modality, FrameStore | FlowStore | None] = {"rgb": frames, "flow": fields}
    for modality, library in libraries.items():
        for video, found in zip(videos, library.find(videos) if library else (), strict=False):
            if found:
                jobs[modality, key_of(video)] = (modality, found)
    return jobs


def _results(
    checker: VideoChecker, jobs: Sequence[Job], workers: int, timeout: float
) -> Iterator[tuple[Job, VideoCheck | Exception]]:
    """A check of each job, or what became of it, with a bar of progress."""
    with progress() as bar:
        task = bar.add_task("frames and flow of videos", total=len(jobs))
        for result in in_parallel(checker, jobs, workers, timeout):
            yield result
            bar.advance(task)


def _without_check(job: Job, error: Exception) -> VideoCheck:
    """The check of a video that failed; without a state, as the machine may be at fault."""
    modality, video = job
    if isinstance(error, WorkerCrashed):
        return VideoCheck(problems={f"{modality}_crash": f"{video.path}: {error}"})
    reason = f"{video.path}: {type(error).__name__}: {error}"
    return VideoCheck(problems={f"{modality}_broken": reason})


def _extra(
    lists: Lists, frames: FrameStore | None, fields: FlowStore | None
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
