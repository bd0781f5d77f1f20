"""What the place and name of a JPEG image tell: its video, its component and its number.

    jpegs_256/<video>/frame000001.jpg             RGB of the released archives
    tvl1_flow/{u,v}/<video>/frame000001.jpg       their flow
    <video>/img_00001.jpg                         RGB of denseflow and mmaction2
    <video>/{flow_x,flow_y}_00001.jpg             their flow, in the same folder

What lies above or between these folders (an archive's top folder, a folder per class) does not
matter.
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Files that begin with a dot are a Mac's notes on others. A number has to fit 64 bits.
NUMBERED = re.compile(r"(?P<prefix>(?!\.).*?)(?P<number>\d{1,18})\.jpe?g", re.IGNORECASE)
_FLOW_PREFIX = {"flow_x_": "u", "x_": "u", "flow_y_": "v", "y_": "v"}


def component_of(folder: str, prefix: str) -> tuple[str, str]:
    """Component ("rgb", "u" or "v") and video of an image, from its folder and name's beginning."""
    *above, video = folder.split("/")
    if prefix in _FLOW_PREFIX:
        return _FLOW_PREFIX[prefix], video
    return next((part for part in reversed(above) if part in ("u", "v")), "rgb"), video


def file_state(file: str | Path) -> list[Any]:
    """What changes with a file: its place, size and time."""
    about = os.stat(file)
    return [os.path.abspath(file), about.st_size, about.st_mtime_ns]


def unbroken(numbers: npt.NDArray[np.int64]) -> int:
    """How many of ascending numbers come before the first gap: all that can be counted on."""
    gaps = np.flatnonzero(np.diff(numbers) != 1)
    return int(gaps[0]) + 1 if len(gaps) else len(numbers)
