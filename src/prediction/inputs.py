"""What a user may name as input: files, folders, patterns, streams, or a list of such."""

import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from src.media.find_videos import find_videos, videos_below
from src.media.frames_in_order import is_stream
from src.utils.errors import UserError, short_name


def find_inputs(named: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Find videos, folders of them, patterns such as clips/**/*.mp4 and streams, each video once.

    Returns:
        Videos and streams, and the reasons for the names that stand for none.

    Raises:
        UserError: there is nothing to do.
    """
    inputs: dict[str, None] = {}
    failed: dict[str, str] = {}
    for name in named:
        try:
            inputs |= dict.fromkeys(_stands_for(name))
        except UserError as error:
            failed[name] = str(error)
    if not inputs:
        raise UserError("; ".join(failed.values()) or "input=[] names no video: input=<file>")
    return list(inputs), failed


def _stands_for(name: str) -> list[str]:
    if is_stream(name):
        return [name]
    if has_magic(name) and not Path(name).exists():
        matches = sorted(match for match in glob(name, recursive=True) if Path(match).is_file())
        if not matches:
            raise UserError(f"input {name} matches no file: quote it, and look where it points")
        return matches
    return [str(path) for path in find_videos(Path(name))]


def class_folders(named: Sequence[str], classes: Sequence[str]) -> str | None:
    """The first folder among the inputs whose videos lie in folders that are called as classes."""
    for name in named:
        folders = {video.partition("/")[0] for video in videos_below(Path(name))}
        if folders and folders <= {*classes}:
            return name
    return None


def output_names(sources: Sequence[str]) -> dict[str, str]:
    """A file name's stem for each input: its own, with a number where two share one."""
    names: dict[str, str] = {}
    for source in sources:
        # of a stream all but a password
        stem = re.sub("//.*@", "//", source) if is_stream(source) else Path(source).stem
        stem = short_name(re.sub(r"[^\w.-]+", "_", stem).strip("_") or "video", source)
        taken = {name.lower() for name in names.values()}
        name, number = stem, 2
        while name.lower() in taken:
            name, number = f"{stem}_{number}", number + 1
        names[source] = name
    return names
