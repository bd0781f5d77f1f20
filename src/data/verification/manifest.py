"""What `src.verify_data` has found out about a dataset, in files that the datamodule reads.

manifest.csv     a row per listed video
manifest.json    the places that it was made for; there only while it belongs to the .csv
"""

import csv
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from src.data.image_archives import ArchiveImages
from src.data.image_folders import FolderImages, FolderTree
from src.data.images import Images
from src.data.library import (
    ON_THE_FLY,
    VIDEOS,
    FlowFolders,
    FlowLibrary,
    FrameFolders,
    RGBLibrary,
    open_flow,
    open_rgb,
)
from src.data.splits import Video
from src.data.verification.lists import key_of
from src.data.verification.problems import PROBLEMS, is_fatal
from src.errors import UserError
from src.flow.settings import FlowSettings
from src.whole_files import whole

log = logging.getLogger(__name__)
VERSION = 1  # of the format
_AGAIN = "python -m src.verify_data makes it anew"
_NUMBERED = re.compile(
    r"(?P<folder>.*)/(?P<prefix>[^/]*)\[(?P<first>\d+)-(?P<last>\d+)\](?P<suffix>\.\w+)"
)


@dataclass(frozen=True)
class Row:
    """One video; numbers of what could not be read are 0.

    Args:
        video: `<class folder>/<file>`, as the lists have it.
        name: the file's name without ending, which names frames and flow.
        label: name of its class.
        splits: such as "1:train 3:test".
        frames: number of frames.
        fields: number of flow fields.
        height: of a frame.
        width: of a frame.
        flow_height: of a flow field.
        flow_width: of a flow field.
        fps: frames per second.
        decoder: what read the frames.
        problems: codes of `src.data.verification.problems`, apart by spaces.
        rgb: where its frames lie: a file's name, `<folder>/frame[000001-000093].jpg`, or an
            archive's name for it.
        u: where u lies, "" if nowhere.
        v: where v lies.
    """

    video: str
    name: str
    label: str
    splits: str
    frames: int = 0
    fields: int = 0
    height: int = 0
    width: int = 0
    flow_height: int = 0
    flow_width: int = 0
    fps: float = 0.0
    decoder: str = ""
    problems: str = ""
    rgb: str = ""
    u: str = ""
    v: str = ""

    def fatal(self, modality: str) -> list[str]:
        """Why a network that sees "rgb" or "flow" cannot use this video."""
        codes = self.problems.split()
        return [code for code in codes if code.startswith(f"{modality}_") and is_fatal(code)]


@dataclass(frozen=True)
class Manifest:
    """What is known of a dataset's videos.

    Args:
        file: the .csv.
        places: where "rgb" and "flow" lie, see `place_of`.
        rows: by `<class folder>/<file>`.
        about: for the reader's information, such as the time.
    """

    file: Path
    places: Mapping[str, str | None]
    rows: Mapping[str, Row]
    about: Mapping[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        """Write both files.

        Raises:
            UserError: they cannot be written.
        """
        head = {"version": VERSION, "places": self.places, "rows": len(self.rows), **self.about}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            _head(self.file).unlink(missing_ok=True)
            with whole(self.file) as draft, draft.open("w", newline="") as lines:
                writer = csv.DictWriter(lines, [column.name for column in fields(Row)])
                writer.writeheader()
                writer.writerows(asdict(row) for row in self.rows.values())
            _head(self.file).write_text(json.dumps(head, indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"manifest {self.file} cannot be written ({error.strerror}): give another place "
                "with data.manifest=<file>.csv"
            ) from error

    @classmethod
    def load(cls, file: Path) -> Self | None:
        """Read a manifest; None where there is none, and with a line of log for an unknown one."""
        if not file.is_file():
            return None
        try:
            head = json.loads(_head(file).read_text())
            if head["version"] != VERSION:
                raise ValueError(f"format {head['version']}")
            with file.open(newline="") as lines:
                rows = [_row(columns) for columns in csv.DictReader(lines)]
            if len(rows) != head["rows"]:
                raise ValueError(f"{len(rows)} of {head['rows']} rows")
            return cls(file, dict(head["places"]), {row.video: row for row in rows})
        except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
            log.warning("manifest %s is not used, of another format (%s): %s", file, error, _AGAIN)
            return None

    @classmethod
    def fitting(
        cls, file: str | None, places: Mapping[str, str], videos: Sequence[Video]
    ) -> Self | None:
        """Read a manifest if it speaks of these places and videos; else say so and go without.

        Args:
            file: the .csv, None for none.
            places: those in use, by "rgb" and "flow", as the config has them.
            videos: all that are listed.
        """
        known = cls.load(Path(file)) if file and videos else None
        if known is None:
            return None
        other = [
            f"{modality} in {known.places.get(modality)}, not {place}"
            for modality, where in places.items()
            if known.places.get(modality) != (place := place_of(where, videos))
        ]
        if not other and any(key_of(video) not in known.rows for video in videos):
            other = ["other lists"]
        if other:
            log.warning("manifest %s is not used, it is for %s: %s", file, "; ".join(other), _AGAIN)
            return None
        return known

    def find(self, videos: Sequence[Video], modality: str) -> list[Video | None]:
        """The videos as they are there, None for those that are not or cannot be used."""
        return [self._found(video, self.rows[key_of(video)], modality) for video in videos]

    def _found(self, video: Video, row: Row, modality: str) -> Video | None:
        if row.fatal(modality):
            return None
        if modality == "rgb" and row.rgb.lower() == video.path.name.lower():
            return replace(video, path=video.path.with_name(row.rgb))  # its case on disk
        return video

    def reason(self, video: Video, modality: str) -> str:
        """Why a video was not found, for messages."""
        codes = self.rows[key_of(video)].fatal(modality)
        titles = [PROBLEMS[code].title if code in PROBLEMS else code for code in codes]
        return f"{', '.join(titles)} according to {self.file}"

    def tree(self, place: str, modality: str) -> FolderTree | None:
        """The images of a folder of folders, without listing them; None for anything else."""
        root = Path(place)
        tree = FolderTree(root)
        for row in self.rows.values():
            for component in ("rgb",) if modality == "rgb" else ("u", "v"):
                where = getattr(row, component)
                images = _folder_images(root, where)
                if images:
                    tree.found[component, row.name.lower()] = (row.name, images)
                elif where:
                    return None
        return tree if tree.found else None


def open_known_rgb(
    known: Manifest | None, place: str, decoder: str, cache_dir: str | None
) -> RGBLibrary:
    """As `open_rgb`, without listing folders that a manifest knows."""
    tree = known.tree(place, "rgb") if known else None
    return FrameFolders(tree) if tree else open_rgb(place, decoder, cache_dir)


def open_known_flow(
    known: Manifest | None,
    place: str,
    frames: RGBLibrary | None,
    settings: FlowSettings | None,
    cache_dir: str | None,
) -> FlowLibrary:
    """As `open_flow`, without listing folders that a manifest knows."""
    tree = known.tree(place, "flow") if known and place != ON_THE_FLY else None
    return FlowFolders(tree) if tree else open_flow(place, frames, settings, cache_dir)


def place_of(where: str, videos: Sequence[Video]) -> str:
    """A place by its absolute path; of "videos" it is the folder above the listed files."""
    return str((videos_folder(videos) if where == VIDEOS else Path(where)).resolve())


def videos_folder(videos: Sequence[Video]) -> Path:
    """The folder above all listed videos, such as that of the class folders."""
    return Path(os.path.commonpath({video.path.parent for video in videos}))


def where_of(images: Images, root: Path) -> str:
    """Where images lie, as a row's "rgb", "u" and "v" have it."""
    if isinstance(images, FolderImages):
        numbers = (images.first, images.first + images.count - 1)
        first, last = (f"{number:0{images.digits}d}" for number in numbers)
        folder = Path(images.folder).relative_to(root).as_posix()
        return f"{folder}/{images.prefix}[{first}-{last}]{images.suffix}"
    assert isinstance(images, ArchiveImages)
    return images.name


def _folder_images(root: Path, where: str) -> FolderImages | None:
    match = _NUMBERED.fullmatch(where)
    if match is None or os.path.isabs(match["folder"]) or ".." in match["folder"].split("/"):
        return None  # of another kind; or made by hand, to lead out of the folder
    first, last = int(match["first"]), int(match["last"])
    if last < first:
        return None
    return FolderImages(
        str(root / match["folder"]),
        match["prefix"],
        len(match["first"]),
        match["suffix"],
        first,
        last - first + 1,
    )


def _head(file: Path) -> Path:
    return file.with_suffix(".json")


def _row(columns: Mapping[str, Any]) -> Row:
    return Row(**{column.name: column.type(columns[column.name]) for column in fields(Row)})  # type: ignore[operator]
