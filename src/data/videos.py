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


class Texts:
    """Texts in one piece of memory, by their places."""

    def __init__(self, texts: Iterable[str]) -> None:
        pieces = [text.encode(errors="surrogateescape") for text in texts]
        self._bytes = b"".join(pieces)
        self._ends = np.cumsum([0, *map(len, pieces)])

    def __getitem__(self, place: int) -> str:
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

    def __init__(
        self,
        names: Iterable[str] = (),
        paths: Iterable[str] = (),
        labels: Sequence[int] = (),
        groups: Iterable[str] = (),
    ) -> None:
        self.names, self.paths, self.groups = Texts(names), Texts(paths), Texts(groups)
        self.labels: npt.NDArray[np.int64] = np.array(labels, np.int64)

    @classmethod
    def of(cls, videos: Iterable[Video]) -> Self:
        """These, in arrays."""
        rows = [(v.name, os.fspath(v.path), v.label, v.group or "") for v in videos]
        return cls(*zip(*rows, strict=True))

    def take(self, places: Sequence[int], paths: Mapping[int, str] | None = None) -> "Videos":
        """Those in some places, with other paths for some of them."""
        return Videos(
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
            return self.take(range(*index.indices(len(self))))
        place = range(len(self))[index]  # negative ones, and none beyond the end
        group = self.groups[place] or None
        return Video(self.names[place], Path(self.paths[place]), int(self.labels[place]), group)

    def __iter__(self) -> Iterator[Video]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    def __repr__(self) -> str:
        return f"Videos.of({[*self]})"


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
            kept = videos if isinstance(videos, Videos) else Videos.of(videos)
            object.__setattr__(self, part, kept)
