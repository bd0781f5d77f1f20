"""Anybody's own videos: a folder for each class, or a CSV file of paths and classes.

<root>/<class>/<video>.mp4                  any usual ending, other folders in between if you like
<root>/flow/{u,v}/<video>/frame000001.jpg   by src.extract_flow
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from src.data.splits import NoSuchSplit, Split, Video, fold_of_groups
from src.data.video_list import ListedVideo, read_video_list
from src.media.find_videos import ENDINGS, check_names, videos_below
from src.utils.errors import UserError
from src.utils.values import check_values, integer, number

_NEEDS = {
    "test_share": number("a share above 0, below 1", lambda share: 0 < share < 1),
    "seed": integer(0),
}
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
        split: from 1; a file with a column `split` has split 1 only.
        lists: a CSV file with the columns path (relative to root), class, and maybe split (train
            or test) and group.
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
    entries, folds = lists_of(root, lists, group, test_share, seed)
    now = _fingerprint(entries, folds)
    if fingerprint not in (None, now):
        raise UserError(
            f"the videos in {root}, or how they are divided, are not those that this was trained "
            f"with ({now}, not {fingerprint}): training videos may be among the test videos; "
            "+data.dataset.fingerprint=null takes them as they are now"
        )
    last = max(1, *folds.values())
    if split not in range(1, last + 1):
        made = f"{lists} has" if entries[0].part else f"data.dataset.test_share={test_share} makes"
        raise NoSuchSplit(
            f"data.split={split} does not exist: {made} split 1{f' to {last}' if last > 1 else ''}"
        )
    classes = tuple(sorted({entry.label for entry in entries}))
    videos = {
        entry.path: Video(
            name=Path(entry.path).stem,
            path=Path(root, entry.path),
            label=classes.index(entry.label),
            group=entry.group,
        )
        for entry in entries
    }
    train = tuple(video for path, video in videos.items() if folds[path] != split)
    test = tuple(video for path, video in videos.items() if folds[path] == split)
    untrained = set(range(len(classes))) - {video.label for video in train}
    if untrained or not test:
        lacking = (
            f"training video of class {classes[min(untrained)]}" if untrained else "test video"
        )
        change = "give another data.dataset.test_share, data.dataset.seed or data.dataset.group"
        if entries[0].part:
            change = f"change {lists}"
        raise UserError(f"split {split} of {root} has no {lacking}: {change}")
    return Split(classes, train, test)


def count_classes(root: str, lists: str | None = None) -> int:
    """How many classes `read_folder` finds; its errors."""
    return len({entry.label for entry in _entries(root, lists)})


def fingerprint_of(
    root: str, lists: str | None, group: str | None, test_share: float, seed: int
) -> str:
    """What `read_folder` recognizes the splits by: the number of videos, and a hash of all splits.

    It does not depend on where the root lies.
    """
    return _fingerprint(*lists_of(root, lists, group, test_share, seed))


def lists_of(
    root: str, lists: str | None, group: str | None, test_share: float, seed: int
) -> tuple[list[ListedVideo], dict[str, int]]:
    """All videos, sorted by path, and by path the split that tests each, 0 for none.

    Args and errors are those of `read_folder`.
    """
    check_values({"test_share": test_share, "seed": seed}, _NEEDS, "data.dataset.")
    entries = _entries(root, lists)
    if group is not None:
        entries = _grouped(entries, group)
    if entries[0].part:
        _check_apart(entries, str(lists))
        return entries, {entry.path: int(entry.part == "test") for entry in entries}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        counts[entry.group][entry.label] += 1
    fold_of = fold_of_groups(counts, test_share, seed)
    return entries, {entry.path: fold_of[entry.group] for entry in entries}


def _fingerprint(entries: Sequence[ListedVideo], folds: Mapping[str, int]) -> str:
    lines = "".join(f"{entry.path}\0{entry.label}\0{folds[entry.path]}\n" for entry in entries)
    return f"{len(entries)}-{sha256(lines.encode(errors='surrogateescape')).hexdigest()[:8]}"


# --- what there is -------------------------------------------------------------------------------


def _entries(root: str, lists: str | None) -> list[ListedVideo]:
    """Every video, sorted by path, and checked for what networks and files cannot take."""
    found = read_video_list(Path(lists)) if lists else _in_class_folders(Path(root))
    entries = sorted(found, key=lambda entry: entry.path)
    check_names(Path(root, entry.path) for entry in entries)
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
    return entries


def _in_class_folders(root: Path) -> list[ListedVideo]:
    if not root.is_dir():
        raise UserError(f"data.dataset.root={root} does not exist: give a folder of videos")
    paths = [video.relative_to(root) for video in videos_below(root)]
    if not paths:
        raise UserError(
            f"no video in data.dataset.root={root}: looked for <class>/<video> with a name that "
            f"ends in {ENDINGS}"
        )
    for path in paths:
        if len(path.parts) < 2:
            raise UserError(
                f"{root / path} is in no folder of a class: move it to {root}/<class>/, or list "
                "all videos with their classes in a file for data.dataset.lists"
            )
    return [ListedVideo(path.as_posix(), path.parts[0], path.as_posix()) for path in paths]


# --- what is trained and what is tested ----------------------------------------------------------


def _grouped(entries: Iterable[ListedVideo], pattern: str) -> list[ListedVideo]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"data.dataset.group={pattern} is no regular expression: {error}"
        ) from error
    grouped = []
    for entry in entries:
        match = expression.search(entry.path)
        if match is None:
            raise UserError(
                f"data.dataset.group={pattern} finds nothing in {entry.path}: it must find the "
                "group of every video in its path"
            )
        named = [part or "" for part in match.groups()] or [match[0]]
        grouped.append(replace(entry, group="/".join(named)))
    return grouped


def _check_apart(entries: Iterable[ListedVideo], lists: str) -> None:
    parts: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        parts[entry.group].add(entry.part)
    for group, both in parts.items():
        if len(both) > 1:
            raise UserError(f"{lists} has the group {group} in train and test: put it in one")
