"""Provenance: which video file a video's flow was made of, kept beside the flow.

    <output>/sources/<video>.txt        the file's size and hash; in an archive under the same name

Where the file is another one by now, the flow is not of it.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from src.media.archives import Archive
from src.media.images import archives_at
from src.media.skipped import SOURCES

_READERS = 16  # threads: a network file system answers slowly, but many at a time
_END = 2**20  # bytes that are looked at of either end


def source_of(video: Path) -> str:
    """The size of a file, and a hash of its first and last MiB; "" where it cannot be read.

    A copy of it has the same, whenever it was made and whatever it is called.
    """
    try:
        with video.open("rb") as file:
            digest = blake2b(file.read(_END), digest_size=16)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(_END, size - _END))
            digest.update(file.read())
    except OSError:
        return ""
    return f"{size}-{digest.hexdigest()}"


def sources_kept(place: Path) -> dict[str, str]:
    """`source_of` the videos that flow was made of, by their names in lower case.

    Args:
        place: of the flow, as `open_images` takes it.
    """
    kept: dict[str, str] = {}
    for path in archives_at(place):
        archive = Archive(path)
        for name, entry in archive.entries():
            if PurePosixPath(name).parent.name == SOURCES:
                kept[PurePosixPath(name).stem.lower()] = archive.read(entry).decode()
    files = [*(place / SOURCES).glob("*.txt")]
    with ThreadPoolExecutor(_READERS) as pool:
        texts = pool.map(Path.read_text, files)
        return kept | {file.stem.lower(): text for file, text in zip(files, texts, strict=True)}


def changed(videos: Iterable[Path], kept: dict[str, str]) -> list[Path]:
    """The videos whose file is another one than that which is `kept` of them."""
    known = [video for video in videos if video.stem.lower() in kept]
    with ThreadPoolExecutor(_READERS) as pool:
        sources = pool.map(source_of, known)
        pairs = zip(known, sources, strict=True)
        return [video for video, now in pairs if now not in ("", kept[video.stem.lower()])]
