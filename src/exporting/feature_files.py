"""Features of videos, and the files they are written to."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.data.faults import Faults
from src.errors import UserError
from src.exporting.libraries import check_installed
from src.text import visible
from src.whole_files import whole

NO_LABEL = -1
_ENDINGS = (".npz", ".parquet")


@dataclass
class Features:
    """One vector of each stream for every video.

    Args:
        about: of the network and the protocol, plain.
        class_names: that labels are indices into.
        videos: names, or paths of files without a list.
        lists: where each comes from: "train", "test" or "input".
        labels: -1 where unknown.
        streams: one vector (C,) per video, of each stream.
        faults: what was left out.
    """

    about: dict[str, Any]
    class_names: list[str]
    videos: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    streams: dict[str, list[Tensor]] = field(default_factory=dict)
    faults: list[Faults] = field(default_factory=list)

    def add(self, video: str, part: str, label: int, vectors: dict[str, Tensor]) -> None:
        """Add a video: its name, list and label, and a vector (C,) of each stream."""
        self.videos.append(video)
        self.lists.append(part)
        self.labels.append(label)
        for stream, vector in vectors.items():
            self.streams.setdefault(stream, []).append(vector.detach().float().cpu())

    def vectors(self, stream: str) -> Tensor:
        """Features (N, C) of a stream."""
        return torch.stack(self.streams[stream])

    def __str__(self) -> str:
        """How many videos, how long the vectors, by which protocol."""
        sizes = ", ".join(f"{len(rows[0])} of {stream}" for stream, rows in self.streams.items())
        return f"{len(self.videos)} videos, features: {sizes}\nprotocol: {self.about['protocol']}"

    def save(self, path: Path) -> None:
        """Write a .npz or .parquet file, whole or not at all.

        Raises:
            UserError: there is no video.
        """
        if not self.videos:
            reasons = "; ".join(map(str, self.faults))
            raise UserError(f"there are no features to write{reasons and ': '}{reasons}")
        path.parent.mkdir(parents=True, exist_ok=True)
        save = self._save_npz if path.suffix == ".npz" else self._save_parquet
        with whole(path) as draft:
            save(draft)

    def _save_npz(self, path: Path) -> None:
        """Arrays video, list, label, class_names, about (JSON), and (N, C) of each stream."""
        vectors: dict[str, Any] = {name: self.vectors(name).numpy() for name in self.streams}
        with path.open("wb") as file:  # to a name numpy would add an ending
            np.savez(
                file,
                video=np.array(self.videos),
                list=np.array(self.lists),
                label=np.array(self.labels),
                class_names=np.array(self.class_names),
                about=np.array(json.dumps(self.about)),
                **vectors,
            )

    def _save_parquet(self, path: Path) -> None:
        """Columns video, list, label (a class name or null) and one of vectors for each stream."""
        import pyarrow as pa
        from pyarrow import parquet

        labels = [None if label == NO_LABEL else self.class_names[label] for label in self.labels]
        columns = {
            # visible: a path may hold bytes that are no text
            "video": pa.array([*map(visible, self.videos)], pa.string()),
            "list": pa.array(self.lists, pa.string()),
            "label": pa.array(labels, pa.string()),
        }
        for stream in self.streams:
            vectors = self.vectors(stream)
            flat = pa.array(vectors.flatten().numpy())
            columns[stream] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        metadata = {"about": json.dumps(self.about)}
        parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


def check_output(path: Path) -> Path:
    """The path, if features can be written there.

    Raises:
        UserError: an unknown ending, or a library is missing.
    """
    if path.suffix not in _ENDINGS:
        raise UserError(f"output={path}: needs a name that ends in {' or '.join(_ENDINGS)}")
    if path.suffix == ".parquet":
        check_installed("a .parquet file", "pyarrow")
    return path
