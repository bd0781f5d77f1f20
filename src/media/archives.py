"""Files of a zip archive, read where they lie: no unpacking, no millions of small files.

The published archives of HMDB51 and UCF101 are plain zips of JPEG images, the larger ones cut into
pieces (.zip.001, .zip.002, ...) that follow each other byte for byte.
"""

import glob
import os
import re
import shlex
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from src.utils.errors import UserError

# Of the records that follow PKWARE's APPNOTE.TXT, the fields that are needed; x is skipped.
_LOCAL = struct.Struct("<4s2xH6xL8xHH")  # before a file: flags, checksum, lengths that follow
_CENTRAL = struct.Struct("<4s4xHH8xLLHHH8xL")  # a file: flags, method, sizes, lengths, offset
_END = struct.Struct("<4s8xLLH")  # size and offset of the central directory
_LOCATOR = struct.Struct("<4s4xQ4x")  # where the zip64 end is
_END64 = struct.Struct("<4s36xQQ")  # size and offset, of archives over 4 GiB or 65,535 files
_SLACK = 320  # read along with the data: the entry's name and extra fields, of unknown length
_ENCRYPTED, _CHECKSUM_FOLLOWS, _UTF8 = 0x1, 0x8, 0x800  # flags
_LARGEST = 2**28  # bytes of a file unpacked; a kilobyte can be made to unpack to more


class Entry(NamedTuple):
    """Where an archive keeps a file: `offset` of its header, its stored size, its method."""

    offset: int
    size: int
    method: int


def parts_of(path: Path) -> list[Path]:
    """All pieces of an archive, given as one file or as its .001.

    Raises:
        UserError: a piece is missing.
    """
    if not re.search(r"\.\d{3}$", path.name):
        parts = [path]
    else:
        stem = path.name[:-3]
        parts = sorted(path.parent.glob(f"{glob.escape(stem)}[0-9][0-9][0-9]"))
        numbers = [int(part.suffix[1:]) for part in parts]
        missing = set(range(1, max(numbers, default=1) + 1)) - set(numbers)
        if missing:
            names = ", ".join(f"{stem}{number:03d}" for number in sorted(missing))
            raise UserError(f"archive {path} is incomplete: {names} missing beside it")
    for part in parts:
        if not part.is_file():
            raise UserError(f"archive {part} does not exist")
    if any(path.with_suffix(ending).exists() for ending in (".z01", ".Z01")):
        raise UserError(
            f"archive {path} is in volumes, .z01 and so on: join them by "
            f"zip -s 0 {shlex.quote(str(path))} --out joined.zip"
        )
    return parts


class Archive:
    """A zip archive in one or several pieces, open for reading in any process.

    It may be forked or pickled to other processes: reads carry their own position, and files are
    opened anew where they are not open.

    Args:
        path: the .zip, or the .zip.001 of one in pieces.

    Raises:
        UserError: the archive or one of its pieces is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.parts = parts_of(self.path)
        sizes = [part.stat().st_size for part in self.parts]
        self._starts = [0, *accumulate(sizes)]
        self._files: list[int] = []

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_files": []}

    def __del__(self) -> None:
        for file in getattr(self, "_files", []):
            os.close(file)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Names and places of all files, from the central directory; nothing is unpacked.

        Python's zipfile reads it as well, but with a kilobyte of memory per file: gigabytes for the
        millions of images of a dataset.

        Raises:
            UserError: it is no zip archive, cut off, damaged or encrypted.
        """
        begin, end = self._directory()
        directory = self._at(begin, end - begin)
        at = 0
        while at + _CENTRAL.size <= len(directory):
            magic, flags, method, packed, unpacked, *lengths, offset = _CENTRAL.unpack_from(
                directory, at
            )
            if magic != b"PK\x01\x02":
                break
            at += _CENTRAL.size
            raw = directory[at : at + lengths[0]]
            if not raw.endswith(b"/"):
                extra = directory[at + lengths[0] : at + lengths[0] + lengths[1]]
                packed, offset = _large(extra, packed, unpacked, offset)
                name = raw.decode("utf-8" if flags & _UTF8 else "cp437", errors="replace")
                if flags & _ENCRYPTED:
                    raise UserError(f"archive {self.path} is encrypted: unpack it with its key")
                if offset + _LOCAL.size + packed > begin:
                    raise self._damaged(f"{name!r} lies outside of it")
                yield name, Entry(offset, packed, method)
            at += sum(lengths)
        if at != len(directory):
            raise self._damaged("its central directory breaks off")

    def _directory(self) -> tuple[int, int]:
        """First byte of the central directory, and the byte after its last."""
        size = self._starts[-1]
        begin = max(0, size - 2**16 - _END.size)
        tail = self._at(begin, size - begin)
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or at + _END.size > len(tail):
            raise self._damaged("no end of a zip archive in it")
        _, size, offset, _ = _END.unpack_from(tail, at)
        end = begin + at
        locator = self._at(end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
        if locator[:4] == b"PK\x06\x07":  # more than 65,535 files, or more than 4 GiB
            end = _LOCATOR.unpack(locator)[1]
            record = self._at(end, _END64.size)
            if record[:4] != b"PK\x06\x06" or len(record) < _END64.size:
                raise self._damaged("its zip64 end is not where it should be")
            _, size, offset = _END64.unpack(record)
        if offset + size > end:
            raise self._damaged("bytes are missing")
        return offset, offset + size

    def _damaged(self, reason: str) -> UserError:
        pieces = f" ({len(self.parts)} pieces)" if len(self.parts) > 1 else ""
        return UserError(
            f"archive {self.path}{pieces} cannot be read: {reason}; it is damaged or not complete, "
            "download it again"
        )

    def read(self, entry: Entry) -> bytes:
        """The content of a file.

        Raises:
            UserError: the archive is damaged there.
        """
        damaged = UserError(
            f"archive {self.path} is damaged at byte {entry.offset}: download it again"
        )
        block = self._at(entry.offset, _LOCAL.size + _SLACK + entry.size)
        if block[:4] != b"PK\x03\x04" or len(block) < _LOCAL.size:
            raise damaged
        _, flags, checksum, name_length, extra_length = _LOCAL.unpack_from(block)
        start = _LOCAL.size + name_length + extra_length
        if start + entry.size > len(block):
            block = self._at(entry.offset, start + entry.size)
        data = block[start : start + entry.size]
        if len(data) < entry.size:
            raise damaged
        if entry.method == zipfile.ZIP_DEFLATED:
            unpacker = zlib.decompressobj(wbits=-15)
            try:
                data = unpacker.decompress(data, _LARGEST)
            except zlib.error as error:
                raise damaged from error
            if not unpacker.eof:
                raise damaged
        elif entry.method != zipfile.ZIP_STORED:
            raise UserError(
                f"archive {self.path} is compressed by method {entry.method}: "
                "unpack it and zip it by the usual one, or not at all"
            )
        if not flags & _CHECKSUM_FOLLOWS and zlib.crc32(data) != checksum:
            raise damaged
        return data

    def _at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, across pieces."""
        if not self._files:
            self._files = [os.open(part, os.O_RDONLY) for part in self.parts]
        part = bisect_right(self._starts, offset) - 1
        blocks = []
        while size > 0 and part < len(self._files):
            block = os.pread(self._files[part], size, offset - self._starts[part])
            blocks.append(block)
            size, offset = size - len(block), offset + len(block)
            if offset == self._starts[part + 1]:
                part += 1
            elif not block:
                break  # the piece has been cut off since
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _large(extra: bytes, packed: int, unpacked: int, offset: int) -> tuple[int, int]:
    """Size and offset from a zip64 extra field, where 32 bits do not hold them."""
    limit = 2**32 - 1
    fields, at = [unpacked, packed, offset], 0
    while limit in fields and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == 1:  # only those of the three that overflow are there, in this order
            values = extra[at : at + length]
            for i, value in enumerate(fields):
                if value == limit and len(values) >= 8:
                    fields[i], values = int.from_bytes(values[:8], "little"), values[8:]
            break
        at += length
    return fields[1], fields[2]
