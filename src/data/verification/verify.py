"""Check a dataset's frames and flow against all its lists, and write its manifest."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.data.splits import NoSuchSplit
from src.data.stores import ON_THE_FLY, VIDEOS, ImageStore, open_flow, open_rgb
from src.data.verification.inspection import Job, Stores, VideoChecker
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
from src.data.videos import Split, Video, Videos, key_of
from src.extraction.provenance import sources_kept
from src.flow.settings import FlowSettings
from src.media.find_videos import stem, videos_below
from src.utils.console import progress
from src.utils.errors import UserError
from src.utils.processes import WorkerCrashed, in_parallel, usable_cores
from src.utils.values import NULL, check_values, integer

_SPLITS = (1, 2, 3)
_STATTERS = 16  # threads: a network file system answers slowly, but many at a time


@dataclass(frozen=True)
class Lists:
    """All splits of a dataset, by their numbers."""

    videos: tuple[Video, ...]  # each that a split trains or tests on, once
    splits: dict[int, Split]
    unused: frozenset[str]  # names, in lower case, that the lists mention for no split
    unreadable: Sequence[str] = ()  # why splits cannot be used whose lists are there

    def parts(self) -> dict[str, set[tuple[int, str]]]:
        """The parts of splits that each video is in, such as (1, "train"), by its key."""
        parts: dict[str, set[tuple[int, str]]] = defaultdict(set)
        for number, part, video in self._members():
            parts[key_of(video)].add((number, part))
        return parts

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
    absent, unreadable = [], []
    for number in _SPLITS:
        try:
            splits[number] = dataset(split=number)
        except NoSuchSplit as error:
            absent.append(error)
        except UserError as error:
            unreadable.append(error)
    if not splits:
        raise (unreadable or absent)[0]
    videos = {
        key_of(video): video for split in splits.values() for video in (*split.train, *split.test)
    }
    names = {video.name.lower() for video in videos.values()}
    unused = frozenset(_mentioned(dataset) - names)
    return Lists(tuple(videos.values()), splits, unused, [*map(str, unreadable)])


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


@dataclass(frozen=True)
class Verification:
    """What `verify` has found."""

    lists: Lists
    places: Mapping[Modality, str]  # of the frames and the flow that are there, as given
    flow: str | None  # where it lies or is to lie, or "on_the_fly"
    manifest: Manifest  # a check of the frames and of the flow of every listed video
    details: Details
    extra: Mapping[Modality, Sequence[str]]  # what no list names
    moves: Mapping[Path, Path]  # from where misplaced videos lie to where the lists say
    checked: int  # videos' frames or flow checked now
    cached: int  # of which the manifest knew already
    seconds: float  # wall-clock time of all of it
    full: bool  # whether everything was decoded

    @property
    def failed(self) -> bool:
        """Whether a video or a split cannot be trained on."""
        return bool(self.lists.unreadable) or any(PROBLEMS[code].fatal for code in self.details)

    @property
    def videos(self) -> Path:
        """The folder of video files, for commands that make flow."""
        return videos_folder(self.lists.videos)


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
    check_values({"workers": workers}, {"workers": integer(1) | NULL})
    if manifest is None:
        raise UserError("manifest=null: give a file to write: data.videos.manifest=manifest.jsonl")
    lists = read_lists(dataset)
    folder = videos_folder(lists.videos)
    stores: Stores = {}
    places: dict[Modality, str] = {}
    if rgb and (folder if rgb == VIDEOS else Path(rgb)).exists():
        stores["rgb"], places["rgb"] = open_rgb(rgb, decoder, cache_dir), rgb
    if flow and flow != ON_THE_FLY and Path(flow).exists():
        stores["flow"], places["flow"] = open_flow(flow, None, None, cache_dir), flow
    if not stores:
        raise UserError(
            f"neither frames ({folder if rgb == VIDEOS else rgb}) nor flow ({flow}) are there: "
            "data/README.md shows where they belong; data.rgb and data.flow give other places"
        )
    checker = VideoChecker(stores, full)
    jobs = {  # what is there to look at, by the listed video's key
        (modality, key_of(video)): (modality, replace(video, path=Path(path)))
        for modality, store in stores.items()
        for video, path in zip(lists.videos, store.find(Videos.of(lists.videos)), strict=True)
        if path
    }
    with ThreadPoolExecutor(_STATTERS) as pool:
        states = dict(zip(jobs, pool.map(checker.state, jobs.values()), strict=True))
    before = None if recheck else Manifest.load(Path(manifest))
    still_true = {
        key: check
        for key, check in (before.checks if before else {}).items()
        if check.state and check.state == states.get(key) and (check.full or not full)
    }
    cached = len(still_true)
    absolute = {modality: place_of(place, lists.videos) for modality, place in places.items()}
    known = Manifest(Path(manifest), absolute, still_true)
    known.save()
    rest = {job: key for key, job in jobs.items() if key not in known.checks}
    with progress() as bar:
        task = bar.add_task("frames and flow of videos", total=len(rest))
        for job, result in in_parallel(checker, [*rest], workers or usable_cores(), timeout):
            key = rest[job]
            if isinstance(result, Exception):
                known.add(*key, _without_check(job, result))
            else:
                known.add(*key, replace(result, state=states[key]))
            bar.advance(task)
    sources: dict[str, str] = {}
    if flow and "flow" in stores and FlowSettings.load(Path(flow)):  # flow of others has none
        sources = sources_kept(Path(flow))
    missing = [video for video in lists.videos if ("rgb", key_of(video)) not in jobs]
    extra = _extra(lists, stores, {stored.path for _, stored in jobs.values()})
    moves = _moves(missing, extra, folder) if places.get("rgb") == VIDEOS else {}
    misplaced = {key_of(video): str(moves[video]) for video in missing if video in moves}
    details = complete(known, [*stores], lists.videos, stack, sources, misplaced)
    known.save()
    return Verification(
        lists=lists,
        places=places,
        flow=flow,
        manifest=known,
        details=details,
        extra=extra,
        moves={moves[video]: video.path for video in moves},
        checked=len(jobs) - cached,
        cached=cached,
        seconds=time.monotonic() - start,
        full=full,
    )


def _without_check(job: Job, error: Exception) -> VideoCheck:
    """The check of a video that failed; without a state, as the machine may be at fault."""
    modality, video = job
    if isinstance(error, WorkerCrashed):
        return VideoCheck(problems={f"{modality}_crash": f"{video.path}: {error}"})
    reason = f"{video.path}: {type(error).__name__}: {error}"
    return VideoCheck(problems={f"{modality}_broken": reason})


def _moves(
    missing: Sequence[Video], extra: dict[Modality, list[str]], folder: Path
) -> dict[Video, Path]:
    """The files of missing videos that lie elsewhere in their folder, which are taken from `extra`.

    In a class folder of another case, in none, or with another ending.
    """
    elsewhere = {Path(name).stem.lower(): name for name in extra["rgb"]}
    places = {v: elsewhere[v.name.lower()] for v in missing if v.name.lower() in elsewhere}
    extra["rgb"] = sorted({*extra["rgb"]} - {*places.values()})
    return {video: folder / place for video, place in places.items()}


def _extra(lists: Lists, stores: Stores, known: set[Path]) -> dict[Modality, list[str]]:
    """What is there and in no list, but for the `known` files of listed videos."""
    listed = {video.name.lower() for video in lists.videos} | lists.unused
    extra: dict[Modality, list[str]] = {"rgb": [], "flow": []}
    for modality, store in stores.items():
        if isinstance(store, ImageStore):
            names = {name for part in store.components for name in store.index.videos(part)}
            extra[modality] = sorted(name for name in names if name.lower() not in listed)
        else:
            folder = videos_folder(lists.videos)
            extra[modality] = [
                file
                for file in videos_below(folder)
                if folder / file not in known and stem(file).lower() not in lists.unused
            ]
    return extra
