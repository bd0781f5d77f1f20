"""All official lists of a dataset together, and what may not be in two parts of one of them."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.data.splits import HMDB51_NAME, Split, Video, key_of
from src.errors import UserError

_NUMBERS = (1, 2, 3)


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
    for number in _NUMBERS:
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
