"""What is extracted of videos, each kind into a folder of its own: optical flow, or RGB frames."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from src import __version__
from src.flow.settings import FILE_NAME as FLOW_FILE
from src.flow.settings import FlowSettings
from src.utils.errors import UserError
from src.utils.files import write_first
from src.utils.values import NULL, check_values, integer

FLOW, FRAMES = "flow", "frames"
FRAMES_FILE = "frames.json"


@dataclass(frozen=True)
class FrameSettings:
    """Everything that two folders of frames must share to be used together.

    Args:
        short_side: smaller side in pixels that frames are resized to; None leaves them as they are.
    """

    short_side: int | None = 256

    def __post_init__(self) -> None:
        check_values({"short_side": self.short_side}, {"short_side": integer(1) | NULL})

    def save(self, folder: Path) -> None:
        """Write frames.json; if there is one already, it stays."""
        record = {**asdict(self), "versions": {"project": __version__}}
        write_first(folder / FRAMES_FILE, json.dumps(record, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read frames.json in a folder; None where there is none.

        Raises:
            UserError: it is damaged.
        """
        file = folder / FRAMES_FILE
        if not file.is_file():
            return None
        try:
            return cls(json.loads(file.read_text())["short_side"])
        except (ValueError, KeyError, TypeError, RecursionError, UserError) as error:
            raise UserError(f"{file} is not readable as settings of frames: {error}") from error


@dataclass(frozen=True)
class Product:
    """One kind of images, of every video: where they go, and how they are made.

    Args:
        output: the folder.
        settings: of flow or of frames, which decide what it is.
    """

    output: Path
    settings: FlowSettings | FrameSettings

    @property
    def kind(self) -> str:
        """What it is called in messages and file names."""
        return FLOW if isinstance(self.settings, FlowSettings) else FRAMES

    @property
    def components(self) -> Sequence[str]:
        """Folders below the output, in each of which a video has a folder of images."""
        return ("u", "v") if self.kind == FLOW else ("rgb",)

    @property
    def record(self) -> Path:
        """The file that keeps the settings beside the images."""
        return self.output / (FLOW_FILE if self.kind == FLOW else FRAMES_FILE)

    def claim(self, format: str) -> None:
        """Make the folder and write its record, or make sure that what is there goes together.

        Raises:
            UserError: the folder holds images in the other format, or made with other settings.
        """
        output, kind = self.output, self.kind
        contents = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
        formats = {
            "jpeg": bool(contents & {*self.components}),
            "zip": any(".zip" in name for name in contents),  # .zip.001, too
        }
        held = [name for name, is_held in formats.items() if is_held]
        if held and self.record.name not in contents:
            raise UserError(
                f"{output} holds {kind} without {self.record.name}, so made in an unknown way: "
                "give another output folder"
            )
        if held and held != [format]:
            raise UserError(
                f"{output} holds {kind} in format {held[0]}, not {format}: continue with "
                f"format={held[0]}, or give another output folder"
            )
        output.mkdir(parents=True, exist_ok=True)
        self.settings.save(output)
        existing = self._existing()  # another shard may have been faster
        if existing and (differences := _differences(existing, self.settings)):
            raise UserError(
                f"{output} holds {kind} made with other settings ({'; '.join(differences)}): give "
                f"another output folder, or the settings of {self.record}"
            )

    def _existing(self) -> FlowSettings | FrameSettings | None:
        if self.kind == FLOW:
            return FlowSettings.load(self.output, lying=True)
        return FrameSettings.load(self.output)


def _differences(
    existing: FlowSettings | FrameSettings, settings: FlowSettings | FrameSettings
) -> list[str]:
    before, now = asdict(existing), asdict(settings)
    for record in (before, now):
        parameters = record.pop("parameters", {})
        if before.get("algorithm") == now.get("algorithm"):  # else they have nothing in common
            record |= parameters
    return [
        f"{key} {before.get(key)} there, {now.get(key)} now"
        for key in now | before
        if before.get(key) != now.get(key)
    ]
