"""Anybody's own videos: a folder for each class, or a CSV file of paths and classes.

<root>/<class>/<video>.mp4                  any usual ending, other folders in between if you like
<root>/flow/{u,v}/<video>/frame000001.jpg   by src.extract_flow
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from sys import intern

import regex

from src.data.splits import NoSuchSplit, fold_of_groups
from src.data.video_list import ListedVideo, read_video_list
from src.data.videos import Split, Videos
from src.media.find_videos import ENDINGS, check_names, stem, videos_below
from src.utils.errors import UserError
from src.utils.values import check_values, integer, number

_NEEDS = {
    "test_share": number("a share above 0, below 1", lambda share: 0 < share < 1),
    "seed": integer(0),
}
PATIENCE = 1.0  # seconds to search a path for its group
_TICK = 2 * 10**9  # nanoseconds from one time to the next that a file system may tell apart
_TAKEN = {"video", "label"}  # columns of scores.csv, which has one for each class


def read_folder(
    root: str,
    split: int,
    lists: str | None = None,
    group: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    fingerprint: str | None = None,
) -> Split:
    """Read a folder of videos, and divide them into training and test.

    Classes are in alphabetical order. Without a CSV file the first folder of a video's path is its
    class. Without a column `split` in that file the splits are made here: as many as have test
    lists of that share without a common video, so that the shares 0.2 and 0.3 make 5 and 3 splits,
    see `fold_of_groups`. All that depends on the paths and the seed alone.

    Args:
        root: the folder.
        split: from 1; a file with a column `split` has those that it names.
        lists: a CSV file with the columns path (relative to root), class, and maybe split (train
            or test, or 1, 2, ...: the split that tests it) and group.
        group: a regular expression that finds the group in a video's path below the root: what its
            parentheses match, or all of it without any. None takes the column `group`; without one
            every video is a group of its own.
        test_share, seed: of all videos, in 0..1; of the splits.
        fingerprint: of all splits as they were, see `lists_of`; None for any.

    Raises:
        UserError: a wrong argument or file, fewer than two classes, a class without a training
            video, no test video, two videos of one name, or other splits than those of the
            fingerprint.
    """
    division = divide(root, lists, group, test_share, seed)
    if fingerprint not in (None, division.fingerprint):
        raise UserError(
            f"the videos in {root}, or how they are divided, are not those that this was trained "
            f"with ({division.fingerprint}, not {fingerprint}): training videos may be among the "
            "test videos; +data.dataset.fingerprint=null takes them as they are now"
        )
    made = f"{lists} has" if division.given else f"data.dataset.test_share={test_share} makes"
    if split not in range(1, division.count + 1):
        to = f" to {division.count}" if division.count > 1 else ""
        raise NoSuchSplit(f"data.split={split} does not exist: {made} split 1{to}")
    made_split = _split(division, split, root)
    untrained = set(range(len(made_split.classes))) - {*made_split.train.labels.tolist()}
    if untrained or not made_split.test:
        lacking = "test video"
        if untrained:
            lacking = f"training video of class {made_split.classes[min(untrained)]}"
        change = "give another data.dataset.test_share, data.dataset.seed or data.dataset.group"
        if division.given:
            change = f"change {lists}"
        raise UserError(f"split {split} of {root} has no {lacking}: {change}")
    return made_split


def read_test_videos(place: str, classes: Sequence[str]) -> Split:
    """Labelled videos to test a network on that was trained on others.

    Args:
        place: a folder with a folder for each class, or a file of paths, from its folder on, and
            classes; if it has a column `split`, those of "test" alone.
        classes: all that the network knows, in the order of its scores. Videos may be of a few.

    Raises:
        UserError: there are no videos, two of one name, or one of a class that it does not know.
    """
    path = Path(place)
    root = path if path.is_dir() else path.parent
    listed = (
        _in_class_folders(path, [], "videos") if path.is_dir() else read_video_list(path, "videos")
    )
    entries = sorted(entry for entry in listed if entry.part != "train")
    check_names(root / entry.path for entry in entries)
    if not entries:
        raise UserError(f"videos={place} has no video with split test")
    unknown = {entry.label for entry in entries} - set(classes)
    if unknown:
        near = get_close_matches(min(unknown), classes, n=1)
        hint = f"{near[0]}?" if near else f"it knows {', '.join(classes)}"
        raise UserError(
            f"videos={place} has classes that the network does not know: "
            f"{', '.join(sorted(unknown))}: rename or remove them ({hint})"
        )
    return Split(classes, (), labelled(entries, classes, str(root)))


def count_classes(root: str, lists: str | None = None) -> int:
    """How many classes `read_folder` finds; its errors."""
    return len(_listed(root, lists).classes)


def fingerprint_of(
    root: str, lists: str | None, group: str | None, test_share: float, seed: int
) -> str:
    """What `read_folder` recognizes the splits by: the number of videos, and a hash of all splits.

    It does not depend on where the root lies.
    """
    return divide(root, lists, group, test_share, seed).fingerprint


@dataclass(frozen=True, eq=False)
class Division:
    """Which split tests each video.

    Args:
        entries: all videos, sorted by path.
        classes: their names.
        folds: by path, from 1; 0 for none.
        given: whether the file of paths and classes says so.
    """

    entries: Sequence[ListedVideo]
    classes: Sequence[str]
    folds: Mapping[str, int]
    given: bool

    @property
    def count(self) -> int:
        """How many splits there are."""
        return max(1, max(self.folds.values()))

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        rows = ((entry.path, entry.label, self.folds[entry.path]) for entry in self.entries)
        lines = "".join(f"{path}\0{label}\0{fold}\n" for path, label, fold in rows)
        digest = sha256(lines.encode(errors="surrogateescape")).hexdigest()
        return f"{len(self.entries)}-{digest[:8]}"


def divide(
    root: str, lists: str | None, group: str | None, test_share: float, seed: int
) -> Division:
    """How `read_folder` divides videos; arguments and errors are its own."""
    check_values({"test_share": test_share, "seed": seed}, _NEEDS, "data.dataset.")
    return _divided(_listed(root, lists), lists, group, test_share, seed)


@lru_cache(maxsize=1)  # all stages of a run ask for the same
def _divided(
    listing: "Listing", lists: str | None, group: str | None, test_share: float, seed: int
) -> Division:
    entries = listing.entries
    if group is not None:
        entries = _grouped(entries, group)
    if entries[0].part:
        _check_apart(entries, str(lists))
        folds = {entry.path: entry.fold for entry in entries}
        return Division(entries, listing.classes, folds, given=True)
    counts = Counter((entry.group, entry.label) for entry in entries)
    fold_of = fold_of_groups(counts, test_share, seed)
    folds = {entry.path: fold_of[entry.group] for entry in entries}
    return Division(entries, listing.classes, folds, given=False)


@lru_cache(maxsize=1)
def _split(division: Division, number: int, root: str) -> Split:
    """One of the splits, whatever is in it."""
    entries, folds = division.entries, division.folds
    classes = division.classes
    train = [entry for entry in entries if folds[entry.path] != number]
    test = [entry for entry in entries if folds[entry.path] == number]
    return Split(classes, labelled(train, classes, root), labelled(test, classes, root))


def labelled(entries: Sequence[ListedVideo], classes: Sequence[str], root: str) -> Videos:
    """The videos of entries, with the places of their classes as labels."""
    label_of = {name: label for label, name in enumerate(classes)}
    return Videos(
        names=[stem(entry.path) for entry in entries],
        paths=[os.path.join(root, entry.path) for entry in entries],
        labels=[label_of[entry.label] for entry in entries],
        groups=[entry.group for entry in entries],
    )


# --- what there is -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Listing:
    """Every video that there is, sorted by path, and the names of their classes.

    It holds as long as nothing has been written to the files and folders in `seen`, by their times.
    """

    entries: Sequence[ListedVideo]
    classes: Sequence[str]
    seen: Mapping[str, int]

    def holds(self) -> bool:
        """Whether it would be read again as it is."""
        try:
            return all(os.stat(path).st_mtime_ns == time for path, time in self.seen.items())
        except OSError:
            return False


_kept: dict[tuple[str, str | None], Listing] = {}  # the last that was read


def _listed(root: str, lists: str | None) -> Listing:
    """What there is, checked for what networks and files cannot take.

    A run asks for it many times, for each stage and by its config, and reading 240,000 videos takes
    seconds.
    """
    kept = _kept.get((root, lists))
    if kept and kept.holds():
        return kept
    _kept.clear()
    began, searched = time.time_ns(), [lists] if lists else list[str]()
    listed = read_video_list(Path(lists)) if lists else _in_class_folders(Path(root), searched)
    seen = {path: os.stat(path).st_mtime_ns for path in searched}
    listing = Listing(*_checked(listed, root, lists), seen)
    if max(seen.values()) < began - _TICK:  # what is written at once may leave the time as it is
        _kept[root, lists] = listing
    return listing


def _checked(
    listed: Sequence[ListedVideo], root: str, lists: str | None
) -> tuple[list[ListedVideo], list[str]]:
    """Videos sorted by path, and their classes.

    Raises:
        UserError: networks or files cannot take them.
    """
    entries = sorted(listed, key=lambda entry: entry.path)
    check_names(os.path.join(root, entry.path) for entry in entries)
    classes = sorted({entry.label for entry in entries})
    if len(classes) < 2:
        raise UserError(
            f"{lists or root} has one class only, {classes[0]}: "
            + ("name others in it" if lists else "data.dataset.root is the folder above classes")
        )
    if _TAKEN & set(classes):
        raise UserError(
            f"{lists or root} has a class {min(_TAKEN & set(classes))}, as a column of scores.csv "
            "is called: rename it"
        )
    return entries, classes


def _in_class_folders(
    root: Path, searched: list[str], key: str = "data.dataset.root"
) -> Sequence[ListedVideo]:
    if not root.is_dir():
        raise UserError(f"{key}={root} does not exist: give a folder of videos")
    paths = videos_below(root, searched)
    if not paths:
        raise UserError(
            f"no video in {key}={root}: looked for <class>/<video> with a name that "
            f"ends in {ENDINGS}"
        )
    for path in paths:
        if "/" not in path:
            raise UserError(
                f"{root / path} is in no folder of a class: move it to {root}/<class>/, or list "
                "all videos with their classes in a file of path,class"
            )
    return [ListedVideo(path, intern(path.partition("/")[0]), path) for path in paths]


# --- what is trained and what is tested ----------------------------------------------------------


def _grouped(entries: Iterable[ListedVideo], pattern: str) -> list[ListedVideo]:
    try:
        expression = regex.compile(pattern)
    except regex.error as error:
        raise UserError(
            f"data.dataset.group={pattern} is no regular expression: {error}"
        ) from error
    grouped = []
    for entry in entries:
        try:
            match = expression.search(entry.path, timeout=PATIENCE)
        except TimeoutError as error:
            raise UserError(
                f"data.dataset.group={pattern} comes to no end in {entry.path}: write it without "
                "repetitions of what is repeated already"
            ) from error
        if match is None:
            raise UserError(
                f"data.dataset.group={pattern} finds nothing in {entry.path}: it must find the "
                "group of every video in its path"
            )
        named = [part or "" for part in match.groups()] or [match[0]]
        grouped.append(entry._replace(group="/".join(named)))
    return grouped


def _check_apart(entries: Iterable[ListedVideo], lists: str) -> None:
    parts: dict[str, str] = {}
    for entry in entries:
        other = parts.setdefault(entry.group, entry.part)
        if other != entry.part:
            raise UserError(
                f"{lists} has the group {entry.group} in split {other} and {entry.part}: "
                "put it in one"
            )
