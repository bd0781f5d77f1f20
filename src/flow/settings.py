"""How a folder of flow was made: kept beside the flow, and in every checkpoint trained on it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import cv2

from src import __version__
from src.flow.algorithm import FlowAlgorithm
from src.flow.algorithms import ALGORITHMS
from src.media.sources import LONGEST_SIDE
from src.utils.commands import Shown, shown_override
from src.utils.errors import UserError, first_line
from src.utils.files import atomic_write, write_first
from src.utils.values import check_values, integer, number

FILE_NAME = "flow.json"
_MOST_STEPS = 10**7  # scales x warps x iterations; TV-L1 as published takes 37,500


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
        if self.algorithm not in ALGORITHMS:
            raise UserError(
                f"no flow algorithm {self.algorithm!r}: choose from {', '.join(ALGORITHMS)}"
            )
        # All parameters, so that settings compare equal whether defaults were spelt out or not.
        complete = {each.name: each.default for each in fields(ALGORITHMS[self.algorithm])}
        object.__setattr__(self, "parameters", complete | dict(self.parameters))
        steps = math.prod(n for n in self.parameters.values() if type(n) is int and n > 1)
        if steps > _MOST_STEPS:
            raise UserError(
                f"flow algorithm {self.algorithm} with {self.parameters}: {steps:,} steps for a "
                f"field, {_MOST_STEPS:,} is the most"
            )
        needs = {
            "short_side": integer(1, LONGEST_SIDE),
            "bound": number("a number of pixels above 0", lambda bound: bound > 0),
        }
        check_values({name: getattr(self, name) for name in needs}, needs, "flow.")

    def make(self, device: str = "cpu") -> FlowAlgorithm:
        """Build the algorithm, on `device` if it can run on one.

        Raises:
            UserError: it has no such parameter, or there is no such device.
        """
        try:
            return ALGORITHMS[self.algorithm](**self.parameters).make(device)
        except (TypeError, cv2.error) as error:
            raise UserError(
                f"flow algorithm {self.algorithm} refuses {self.parameters}: {first_line(error)}"
            ) from error

    def overrides(self) -> list[Shown]:
        """What `src.extract_flow` is to be given for these settings, to be shown."""
        usual = FlowSettings(self.algorithm)
        values = {key: (getattr(self, key), getattr(usual, key)) for key in ("short_side", "bound")}
        for key, value in self.parameters.items():
            values[f"parameters.{key}"] = value, usual.parameters[key]
        chosen: list[Shown] = [f"flow={self.algorithm}"]
        for key, (value, default) in values.items():
            if isinstance(value, str) and value != default:
                chosen.append((f"flow.{key}", value))
            elif value != default:
                chosen.append(f"flow.{key}={'null' if value is None else value}")
        return chosen

    @property
    def uses_torch(self) -> bool:
        """Whether the algorithm is one of PyTorch, which can run on a device."""
        return ALGORITHMS[self.algorithm].uses_torch

    def save(self, folder: Path) -> None:
        """Write flow.json, completely or not at all; if there is one already, it stays.

        The versions that made the flow are in it for the reader's information.
        """
        versions = {"opencv": cv2.__version__, "project": __version__}
        if self.uses_torch:
            versions |= {name: version(name) for name in ("torch", "torchvision")}
        # step: frames from one end of a field to the other; upright: before, turned videos lay
        record = {**asdict(self), "step": 1, "upright": True, "versions": versions}
        write_first(folder / FILE_NAME, json.dumps(record, indent=2) + "\n")

    @classmethod
    def load(cls, place: Path, lying: bool = False) -> Self | None:
        """Read flow.json in a folder of flow, or beside an archive; None where there is none.

        Args:
            place: the folder or archive.
            lying: take flow from before turned videos were seen upright, too.

        Raises:
            UserError: it is damaged, or of such flow.
        """
        file = (place if place.is_dir() else place.parent) / FILE_NAME
        if not file.is_file():
            return None
        try:
            record = json.loads(file.read_text())
            settings = cls(**{name: record[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{file} is not readable as flow settings: {error}") from error
        if not lying and _may_lie(record):
            chosen: list[Shown] = [("output", file.parent), *settings.overrides()]
            raise UserError(
                f"{file} is from before turned videos were seen upright: python -m "
                f"src.extract_flow input=<folder of videos> {' '.join(map(shown_override, chosen))}"
                " extracts flow of those again; where none is turned, "
                'add "upright": true to the file'
            )
        return settings


def _may_lie(record: Mapping[str, Any]) -> bool:
    """Whether flow was extracted by this project before turned videos were seen upright."""
    return "versions" in record and not record.get("upright")


def may_lie(folder: Path) -> bool:
    """Whether the flow of turned videos in a folder may have been extracted lying."""
    return _may_lie(json.loads((folder / FILE_NAME).read_text()))


def mark_upright(folder: Path) -> None:
    """Note in flow.json that all flow in the folder is of upright videos."""
    with atomic_write(folder / FILE_NAME) as draft:
        record = json.loads((folder / FILE_NAME).read_text())
        draft.write_text(json.dumps(record | {"upright": True}, indent=2) + "\n")
