"""Labelled videos of a dataset, and the split that says which are trained and tested on."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self, overload

import numpy as np
import numpy.typing as npt

PARTS = {"train": "training", "val": "validation", "test": "test"}  # of a split, in words


@dataclass(frozen=True)
class Video:
    """One labelled video.

    Args:
        name: its file name without ending, which also names its frames and flow.
        path: where the file is expected; its case, and whether it is there, is found out by
            `src.data.stores`, for it may lie in an archive instead.
        label: index of its class.
        group: what it shares with videos that look like it, such as their film; None if nobody
            knows. Where it is known, it follows from the name.
    """

    name: str
    path: Path
    label: int
    group: str | None = field(default=None, compare=False)

    @property
    def alike(self) -> str:
        """What it shares with videos of its class that look like it, or its own name."""
        return self.group or self.name


class Texts(Sequence[str]):
    """Texts in one piece of memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        pieces = [text.encode(errors="surrogateescape") for text in texts]
        self._bytes = b"".join(pieces)
        self._ends = np.cumsum([0, *map(len, pieces)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # negative ones, and none beyond the end
        piece = self._bytes[self._ends[place] : self._ends[place + 1]]
        return piece.decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for begin, end in pairwise(self._ends.tolist()):
            yield self._bytes[begin:end].decode(errors="surrogateescape")


class Videos(Sequence[Video]):
    """Videos in a few arrays, which make each when it is asked for.

    Worker processes share them with the process that they are forked from. Objects they would copy
    one by one by no more than looking at them, as Python counts in them who does.
    """

    def __init__(self, videos: Iterable[Video] = ()) -> None:
        rows = [(v.name, os.fspath(v.path), v.label, v.group or "") for v in videos]
        names, paths, labels, groups = zip(*rows, strict=True) if rows else ((), (), (), ())
        self._fill(names, paths, labels, groups)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        paths: Sequence[str],
        labels: Sequence[int],
        groups: Sequence[str],
    ) -> Self:
        """Those with these names, paths, labels and groups."""
        videos = cls()
        videos._fill(names, paths, labels, groups)
        return videos

    def _fill(
        self,
        names: Sequence[str],
        paths: Sequence[str],
        labels: Sequence[int],
        groups: Sequence[str],
    ) -> None:
        self.names, self.paths, self.groups = Texts(names), Texts(paths), Texts(groups)
        self.labels: npt.NDArray[np.int64] = np.array(labels, np.int64)

    def take(self, places: Sequence[int], paths: Mapping[int, str] | None = None) -> "Videos":
        """Those in some places, with other paths for some of them."""
        return Videos.of(
            [self.names[place] for place in places],
            [(paths or {}).get(place) or self.paths[place] for place in places],
            [int(self.labels[place]) for place in places],
            [self.groups[place] for place in places],
        )

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Video: ...
    @overload
    def __getitem__(self, index: slice) -> "Videos": ...
    def __getitem__(self, index: int | slice) -> "Video | Videos":
        if isinstance(index, slice):
            return Videos(self[place] for place in range(*index.indices(len(self))))
        group = self.groups[index] or None
        return Video(self.names[index], Path(self.paths[index]), int(self.labels[index]), group)

    def __iter__(self) -> Iterator[Video]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    def __repr__(self) -> str:
        return f"Videos({[*self]})"


def key_of(video: Video) -> str:
    """`<class folder>/<file>`, as the lists have it."""
    return f"{video.path.parent.name}/{video.path.name}"


@dataclass(frozen=True, init=False)
class Split:
    """The videos of one split, and the classes their labels index.

    `val` is empty until `with_validation` takes it out of `train`.
    """

    classes: tuple[str, ...]
    train: Videos
    test: Videos
    val: Videos

    def __init__(
        self,
        classes: Sequence[str],
        train: Iterable[Video],
        test: Iterable[Video],
        val: Iterable[Video] = (),
    ) -> None:
        object.__setattr__(self, "classes", tuple(classes))
        for part, videos in (("train", train), ("test", test), ("val", val)):
            kept = videos if isinstance(videos, Videos) else Videos(videos)
            object.__setattr__(self, part, kept)
