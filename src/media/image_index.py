"""Indices of numbered images: what places and names tell, and how indices are kept.

Folder and name of an image tell its video, component and number; data/README.md shows how. What
lies above or between these folders (an archive's top folder, a folder per class) does not matter.

Small files keep an index between runs; where they cannot be written, it is made anew.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.media.find_videos import is_video
from src.utils.files import atomic_write

log = logging.getLogger(__name__)
_warned: set[Path] = set()
# Files that begin with a dot are a Mac's notes on others. A number has to fit 64 bits.
NUMBERED = re.compile(r"(?P<prefix>(?!\.).*?)(?P<number>\d{1,18})\.(?:jpe?g|png|webp)", re.I)
# Of the released flow, denseflow and mmaction2.
_FLOW_PREFIX = {"flow_x_": "u", "x_": "u", "flow_y_": "v", "y_": "v"}
_FLOW_FOLDER = {"u": "u", "v": "v", "x": "u", "y": "v", "flow_x": "u", "flow_y": "v"}
_BELOW_VIDEO = {"flow_x": "u", "flow_y": "v", "rgb": "rgb"}


def video_name(folder: str) -> str:
    """What a folder's video is called: some tools give folders the endings of files."""
    while is_video(folder):
        folder = folder.rpartition(".")[0]
    return folder


def component_of(folder: str, prefix: str) -> tuple[str, str]:
    """Component ("rgb", "u" or "v") and video of an image, from its folder and name's beginning."""
    *above, video = folder.split("/")
    if prefix in _FLOW_PREFIX:
        return _FLOW_PREFIX[prefix], video_name(video)
    if above and video in _BELOW_VIDEO:
        return _BELOW_VIDEO[video], video_name(above[-1])
    parts = (_FLOW_FOLDER[part] for part in reversed(above) if part in _FLOW_FOLDER)
    return next(parts, "rgb"), video_name(video)


def file_state(file: str | Path) -> list[Any]:
    """What changes with a file: its place, size and time."""
    about = os.stat(file)
    return [os.path.abspath(file), about.st_size, about.st_mtime_ns]


def unbroken(numbers: npt.NDArray[np.int64]) -> int:
    """How many of ascending numbers come before the first gap: all that can be counted on."""
    gaps = np.flatnonzero(np.diff(numbers) != 1)
    return int(gaps[0]) + 1 if len(gaps) else len(numbers)


def load_json(file: Path | None) -> dict[str, Any]:
    """Read a file of `save`; empty if there is none."""
    try:
        return dict(json.loads(file.read_text())) if file else {}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def load_array(file: Path) -> npt.NDArray | None:
    """Map a file of `save` into memory, which processes share; None if there is none."""
    try:
        return np.load(file, mmap_mode="r")
    except Exception:  # numpy's reader fails in a dozen ways on a file that is not its own
        return None


def save(file: Path, content: dict[str, Any] | npt.NDArray) -> bool:
    """Write JSON or an array completely or not at all; tells whether it could be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as draft, draft.open("wb") as open_file:
            if isinstance(content, dict):
                open_file.write(json.dumps(content).encode())
            else:
                np.save(open_file, content)
    except OSError as error:
        if file.parent not in _warned:
            _warned.add(file.parent)
            log.warning("%s: the index of images cannot be kept and is made each time", error)
        return False
    return True
