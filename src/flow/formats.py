"""How flow is stored: as folders of JPEG files, or as a zip archive of them.

A worker writes each video as a part in a working folder; the parent alone takes whole parts over.
Whenever it is killed, a video is there completely or not at all.
"""

import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Protocol

from src.data.images import open_images
from src.errors import UserError
from src.flow.zip_writer import GrowingZip, Image, journal_of, write_images

Fields = Iterable[tuple[bytes, bytes]]  # JPEG images u, v in order


class Format(Protocol):
    """Where a run puts videos.

    Args:
        output: the folder of flow.
        label: of the run, which distinguishes its own files from those of other shards.
    """

    def __init__(self, output: Path, label: str) -> None: ...

    def videos(self) -> set[str]:
        """Names of the videos whose flow is there."""
        ...

    @staticmethod
    def write(part: Path, video: str, fields: Fields) -> list[Image]:
        """Write a video's flow as `part`, in a worker; returns what `take` wants to know."""
        ...

    def take(self, part: Path, video: str, images: list[Image]) -> None:
        """Make a part that was written what counts."""
        ...

    def finish(self) -> None:
        """No more videos are to come."""
        ...


class JpegFolders:
    """`<output>/{u,v}/<video>/frame%06d.jpg`."""

    def __init__(self, output: Path, label: str) -> None:
        self.output = output

    def videos(self) -> set[str]:
        """Names of the videos that have both components."""
        return _names(self.output / "u") & _names(self.output / "v")

    @staticmethod
    def write(part: Path, video: str, fields: Fields) -> list[Image]:
        """Write two folders, which tell everything themselves."""
        for component in "uv":
            (part / component).mkdir(parents=True)
        for number, field in enumerate(fields, start=1):
            for component, data in zip("uv", field, strict=True):
                (part / component / f"frame{number:06d}.jpg").write_bytes(data)
        return []

    def take(self, part: Path, video: str, images: list[Image]) -> None:
        """Move the two folders to their places."""
        for component in "uv":
            target = self.output / component / video
            target.parent.mkdir(exist_ok=True)
            # Of a run killed between the two there is one: it counts as not done.
            shutil.rmtree(target, ignore_errors=True)
            (part / component).rename(target)
        part.rmdir()

    def finish(self) -> None:
        """Nothing is left to do."""


class ZipArchive:
    """`<output>/<label>.zip`, with names in it as in folders of JPEG files.

    A finished archive is not touched again: videos that are new go to `<label>-2.zip`, and so on.
    `open_images` reads all archives of a folder as one.
    """

    def __init__(self, output: Path, label: str) -> None:
        self.output = output
        for number in count(1):
            path = output / (f"{label}-{number}.zip" if number > 1 else f"{label}.zip")
            if not path.exists():
                break
            journal_of(path).unlink(missing_ok=True)  # killed between the last two steps
        self._archive = GrowingZip(path)

    def videos(self) -> set[str]:
        """Names of the videos in this archive and in all finished ones, of other shards too."""
        return self._archive.videos.union(open_images(self.output).videos("u"))

    @staticmethod
    def write(part: Path, video: str, fields: Fields) -> list[Image]:
        """Write one file, a piece of an archive."""
        with part.open("wb") as file:
            return write_images(file, video, fields)

    def take(self, part: Path, video: str, images: list[Image]) -> None:
        """Append the piece."""
        self._archive.add(video, part, images)
        part.unlink()

    def finish(self) -> None:
        """Make it an archive that can be read; none if no video is in it."""
        self._archive.finish()


FORMATS: dict[str, type[Format]] = {"jpeg": JpegFolders, "zip": ZipArchive}


def format_class(name: str) -> type[Format]:
    """The format of that name.

    Raises:
        UserError: there is none.
    """
    if name not in FORMATS:
        raise UserError(f"format={name}: choose from {', '.join(FORMATS)}")
    return FORMATS[name]


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
