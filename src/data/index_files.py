"""Small files that keep an index between runs; where they cannot be written, it is made anew."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.whole_files import whole

log = logging.getLogger(__name__)
_warned: set[Path] = set()


def load_json(file: Path | None) -> dict[str, Any]:
    """Read a file of `save_json`; empty if there is none."""
    try:
        return dict(json.loads(file.read_text())) if file else {}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def save_json(file: Path, content: dict[str, Any]) -> bool:
    """Write a file whole or not at all; tells whether it could be written."""
    return _save(file, lambda part: part.write_text(json.dumps(content)))


def load_array(file: Path) -> npt.NDArray | None:
    """Map a file of `save_array` into memory, which processes share; None if there is none."""
    try:
        return np.load(file, mmap_mode="r")
    except Exception:  # numpy's reader fails in a dozen ways on a file that is not its own
        return None


def save_array(file: Path, array: npt.NDArray) -> bool:
    """Write a file whole or not at all; tells whether it could be written."""

    def write(part: Path) -> None:
        with part.open("wb") as open_file:
            np.save(open_file, array)

    return _save(file, write)


def _save(file: Path, write: Callable[[Path], object]) -> bool:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as draft:
            write(draft)
    except OSError as error:
        if file.parent not in _warned:
            _warned.add(file.parent)
            log.warning("%s: the index of images cannot be kept and is made each time", error)
        return False
    return True
