"""A zip archive that grows by whole videos, and loses none when its writer is killed.

While it grows it is `<name>.zip.partial`, without a central directory; `<name>.zip.journal` says
up to where it counts. Python's zipfile keeps its directory in memory until the end: a gigabyte for
a million images, all lost with the process.

    <name>.zip.journal    a line of JSON per video: {"video": ..., "end": byte after its last image,
                          "images": [[size, CRC-32] of u 1, of v 1, of u 2, ...]}
"""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

Image = tuple[int, int]  # size, CRC-32

# The records of PKWARE's APPNOTE.TXT. Nothing is compressed, names are UTF-8, and the date is the
# earliest that there is, so that the same images make the same bytes.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_VERSION, _VERSION_64, _UNIX = 20, 45, 3 << 8
_UTF8, _STORED, _NO_TIME, _NO_DATE = 0x800, 0, 0, 0x21
_READABLE = 0o100644 << 16
_MAX_16, _MAX_32 = 2**16 - 1, 2**32 - 1


def write_images(file: BinaryIO, video: str, fields: Iterable[tuple[bytes, bytes]]) -> list[Image]:
    """Write a video's JPEG images u, v as a piece of an archive; returns what the journal needs."""
    images: list[Image] = []
    for data in chain.from_iterable(fields):
        name = _name(video, len(images))
        size, checksum = len(data), zlib.crc32(data)
        about = (_VERSION, _UTF8, _STORED, _NO_TIME, _NO_DATE, checksum, size, size)
        file.write(_LOCAL.pack(b"PK\x03\x04", *about, len(name), 0) + name)
        file.write(data)
        images.append((size, checksum))
    return images


def _name(video: str, place: int) -> bytes:
    """The name in the archive of a video's image; their order is u 1, v 1, u 2, ..."""
    return f"{'uv'[place % 2]}/{video}/frame{place // 2 + 1:06d}.jpg".encode()


def journal_of(path: Path) -> Path:
    """The journal of an archive, which is removed after the archive has got its name."""
    return path.with_name(f"{path.name}.journal")


class GrowingZip:
    """An archive to which videos are added; one that was left unfinished is continued.

    Args:
        path: where it is when it is finished. Only one process may write it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._journal = journal_of(path)
        self.videos: set[str] = set()
        self._end = 0
        self._partial.touch()
        self._journal.touch()
        size, kept = self._partial.stat().st_size, 0
        for video, end, _, line_end in self._lines():
            if end > size:  # the machine went down before the data were on the disk
                break
            self.videos.add(video)
            self._end, kept = end, line_end
        os.truncate(self._journal, kept)
        os.truncate(self._partial, self._end)

    def _lines(self) -> Iterator[tuple[str, int, list[Image], int]]:
        """Video, its end, its images, and the end of its line; a torn line is the last."""
        at = 0
        with self._journal.open("rb") as journal:
            for line in journal:
                if not line.endswith(b"\n"):
                    return
                at += len(line)
                entry = json.loads(line)
                yield entry["video"], entry["end"], entry["images"], at

    def add(self, video: str, piece: Path, images: list[Image]) -> None:
        """Append what `write_images` wrote to the file `piece`."""
        with self._partial.open("r+b") as archive, piece.open("rb") as source:
            archive.seek(self._end)
            shutil.copyfileobj(source, archive, 2**20)
            end = archive.tell()
            archive.flush()
            os.fsync(archive.fileno())  # the journal must not be on the disk before it
        with self._journal.open("a") as journal:
            line = {"video": video, "end": end, "images": images}
            journal.write(json.dumps(line, separators=(",", ":")) + "\n")
        self.videos.add(video)
        self._end = end

    def finish(self) -> None:
        """Write the central directory and give the archive its name; nothing if it is empty."""
        if self.videos:
            with self._partial.open("r+b") as archive:
                archive.seek(self._end)
                self._write_directory(archive)
                archive.flush()
                os.fsync(archive.fileno())
            self._partial.rename(self.path)
        self._partial.unlink(missing_ok=True)
        self._journal.unlink()

    def _write_directory(self, archive: BinaryIO) -> None:
        count, offset = 0, 0
        for video, end, images, _ in self._lines():
            for place, (size, checksum) in enumerate(images):
                name = _name(video, place)
                archive.write(_central(name, size, checksum, offset))
                offset += _LOCAL.size + len(name) + size
                count += 1
            assert offset == end, (self.path, video)
        end64 = archive.tell()
        size = end64 - self._end
        if count >= _MAX_16 or end64 >= _MAX_32:
            record = (_END64.size - 12, _UNIX | _VERSION_64, _VERSION_64, 0, 0)
            archive.write(_END64.pack(b"PK\x06\x06", *record, count, count, size, self._end))
            archive.write(_LOCATOR.pack(b"PK\x06\x07", 0, end64, 1))
        shown = min(count, _MAX_16)
        where = min(size, _MAX_32), min(self._end, _MAX_32)
        archive.write(_END.pack(b"PK\x05\x06", 0, 0, shown, shown, *where, 0))


def _central(name: bytes, size: int, checksum: int, offset: int) -> bytes:
    extra = struct.pack("<2HQ", 1, 8, offset) if offset >= _MAX_32 else b""
    version = _VERSION_64 if extra else _VERSION
    record = _CENTRAL.pack(
        b"PK\x01\x02",
        *(_UNIX | version, version, _UTF8, _STORED, _NO_TIME, _NO_DATE),
        *(checksum, size, size),
        *(len(name), len(extra), 0, 0, 0),
        *(_READABLE, min(offset, _MAX_32)),
    )
    return record + name + extra
