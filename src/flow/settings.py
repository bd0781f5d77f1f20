"""How a folder of flow was made: kept beside the flow, and in every checkpoint trained on it."""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import cv2

from src import __version__
from src.flow.algorithm import FlowAlgorithm
from src.flow.algorithms import ALGORITHMS, all_parameters, make_algorithm
from src.utils.errors import UserError

FILE_NAME = "flow.json"


@dataclass(frozen=True)
class FlowSettings:
    """Everything that two flow folders must share to be used together.

    Args:
        algorithm: one of `src.flow.algorithms.ALGORITHMS`.
        parameters: the algorithm's own, see `src.flow.algorithms`.
        short_side: smaller side in pixels that frames are resized to first.
        bound: flow is clipped to [-bound, bound] pixels and quantized to 8 bits.
    """

    algorithm: str = "tvl1"
    parameters: dict[str, Any] = field(default_factory=dict)
    short_side: int = 256
    bound: float = 20.0

    def __post_init__(self) -> None:
        # All parameters, so that settings compare equal whether defaults were spelt out or not.
        complete = all_parameters(self.algorithm, dict(self.parameters))
        object.__setattr__(self, "parameters", complete)
        if not (self.short_side >= 1 and 0 < self.bound < math.inf):
            raise UserError(
                f"flow with short_side={self.short_side} and bound={self.bound}: both must be "
                "positive"
            )

    def make(self, device: str = "cpu") -> FlowAlgorithm:
        """Build the algorithm, on `device` if it can run on one.

        Raises:
            UserError: a wrong name or parameter, or there is no such device.
        """
        return make_algorithm(self.algorithm, dict(self.parameters), device)

    @property
    def uses_torch(self) -> bool:
        """Whether the algorithm is one of PyTorch, which can run on a device."""
        return ALGORITHMS[self.algorithm].uses_torch

    @property
    def color(self) -> bool:
        """Whether the algorithm sees colors."""
        return ALGORITHMS[self.algorithm].color

    def save(self, folder: Path) -> None:
        """Write flow.json, completely or not at all; if there is one already, it stays.

        The versions that made the flow are in it for the reader's information.
        """
        versions = {"opencv": cv2.__version__, "project": __version__}
        if self.uses_torch:
            versions |= {name: version(name) for name in ("torch", "torchvision")}
        # step: frames from one end of a field to the other
        record = {**asdict(self), "step": 1, "versions": versions}
        part = folder / f".{FILE_NAME}.{uuid4().hex}.part"  # machines may write at the same time
        part.write_text(json.dumps(record, indent=2) + "\n")
        try:
            os.link(part, folder / FILE_NAME)  # the first one wins, unlike by a renaming
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            part.replace(folder / FILE_NAME)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, place: Path) -> Self | None:
        """Read flow.json in a folder of flow, or beside an archive; None where there is none."""
        file = (place if place.is_dir() else place.parent) / FILE_NAME
        if not file.is_file():
            return None
        try:
            record = json.loads(file.read_text())
            return cls(**{name: record[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{file} is not readable as flow settings: {error}") from error
