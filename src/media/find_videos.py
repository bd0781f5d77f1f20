"""Which files of a folder are videos, and what they are called."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from src.media.skipped import SOURCES, count_skipped, report_skipped
from src.utils.errors import UserError
from src.utils.files import is_special

ENDINGS = (
    ".3g2 .3gp .asf .avi .divx .f4v .flv .gif .h264 .m2ts .m2v .m4v .mjpeg .mkv .mov .mp4 .mpeg "
    ".mpg .mts .mxf .ogv .rm .ts .vob .webm .wmv"
)
_ENDINGS = frozenset(ENDINGS.split())
# What extraction writes, whose import would bring torch along: a record, and folders beside it.
_EXTRACTED = {"flow.json": {"u", "v", SOURCES}, "frames.json": {"rgb", SOURCES}}


def find_videos(folder: Path) -> list[Path]:
    """Find the videos in a folder and its subfolders, sorted; a single file stands for itself.

    Hidden files and folders are skipped, and what was extracted into the folder is not searched.

    Raises:
        UserError: the folder does not exist or holds no video.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"input {folder} does not exist: give a folder of videos or a video")
    videos = videos_below(folder)
    if not videos:
        raise UserError(f"no video in {folder}: looked for files ending in {ENDINGS}")
    return [folder / video for video in videos]


def videos_below(folder: Path, searched: list[str] | None = None) -> list[str]:
    """As `find_videos`, but relative to the folder and with `/`; nothing where there is nothing.

    What is no regular file is skipped: to open a pipe waits until somebody writes into it.

    `searched` gets the folders that were looked at.
    """
    paths: list[str] = []
    skipped: list[str] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        if searched is not None:
            searched.append(parent)
        below = "" if parent == str(folder) else f"{Path(parent).relative_to(folder).as_posix()}/"
        extracted = {name for record in _EXTRACTED.keys() & files for name in _EXTRACTED[record]}
        folders[:] = [
            name
            for name in folders
            if not (name.startswith(".") or name in extracted or leads_back(Path(parent, name)))
        ]
        for name in files:
            if name.startswith("."):
                continue
            if is_video(name) and not is_special(Path(parent, name)):
                paths.append(f"{below}{name}")
            else:
                skipped.append(f"{below}{name}")
    report_skipped(folder, "videos", count_skipped(skipped))
    return sorted(paths, key=lambda path: path.split("/"))


def is_video(name: str | PurePath) -> bool:
    """Whether a file is called as videos are."""
    return os.path.splitext(name)[1].lower() in _ENDINGS


def stem(video: str | PurePath) -> str:
    """A video's name: that of its file without the ending."""
    name = os.path.basename(video)
    return name.rpartition(".")[0] or name


def leads_back(folder: os.PathLike[str]) -> bool:
    """Whether a folder is a link to one that it lies in: who follows it comes to no end."""
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return any(os.path.realpath(above) == target for above in Path(folder).absolute().parents)


def check_names(videos: Iterable[str | PurePath]) -> None:
    """Refuse two videos of one name: it names their flow and their scores.

    Raises:
        UserError: names both, or one that files of flow and scores cannot name.
    """
    by_name: dict[str, str | PurePath] = {}
    for video in videos:
        try:
            str(video).encode()
        except UnicodeEncodeError as error:  # bytes of another encoding
            raise UserError(
                f"{video} has a name that is not in UTF-8, as it is written to files: rename it, "
                "or everything in a folder: convmv -r -f latin1 -t utf8 --notest <folder>"
            ) from error
        name = stem(video)
        other = by_name.setdefault(name.lower(), video)  # flow is found whatever the case
        if other is not video:
            raise UserError(
                f"{other} and {video} would share the flow folder {name}: rename one of them"
                f"; to put its folder before every name, in the folder above: "
                'for f in */*.*; do mv "$f" "${f%/*}/${f%/*}_${f##*/}"; done'
            )
