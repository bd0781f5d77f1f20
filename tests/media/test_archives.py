"""Zip archives, whole and in pieces, against Python's own zipfile."""

import io
import multiprocessing
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.media import archives
from src.media.archives import Archive, Entry, parts_of
from src.utils.errors import UserError

Files = dict[str, bytes]


def some_files(count: int = 12) -> Files:
    """Files of all sizes, half of them of repeated bytes, below folders."""
    rng = np.random.default_rng(0)
    files = {}
    for number in range(count):
        content = rng.bytes(int(rng.integers(0, 3000)))
        files[f"top/video {number % 3}/frame{number:06d}.jpg"] = (
            content + content[: number % 2 * 99]
        )
    return files


def zipped(
    files: Files, method: int = zipfile.ZIP_STORED, comment: bytes = b"", large: bool = False
) -> bytes:
    """A zip archive of the files; `large` takes 64-bit fields for each."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.mkdir("top")
        archive.comment = comment
        for name, content in files.items():
            with archive.open(name, "w", force_zip64=large) as file:
                file.write(content)
    return buffer.getvalue()


def write(root: Path, content: bytes, cuts: Sequence[int] = ()) -> Path:
    """Write an archive as it is, or in pieces cut before the bytes `cuts`."""
    if not cuts:
        (root / "a.zip").write_bytes(content)
        return root / "a.zip"
    edges = [0, *cuts, len(content)]
    for number, (begin, end) in enumerate(pairwise(edges), start=1):
        (root / f"a.zip.{number:03d}").write_bytes(content[begin:end])
    return root / "a.zip.001"


def read_all(path: Path) -> Files:
    archive = Archive(path)
    return {name: archive.read(entry) for name, entry in archive.entries()}


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("comment", [b"", b"made by hand", b"x" * 65535])
@pytest.mark.parametrize("method", METHODS)
def test_whole_archive(method: int, comment: bytes, large: bool, tmp_path: Path) -> None:
    files = some_files()
    path = write(tmp_path, zipped(files, method, comment, large))
    assert read_all(path) == files
    archive = Archive(path)
    with zipfile.ZipFile(path) as reference:
        infos = [info for info in reference.infolist() if not info.is_dir()]
    for info, (name, entry) in zip(infos, archive.entries(), strict=True):
        assert name == info.filename
        assert entry == Entry(info.header_offset, info.compress_size, info.compress_type)


def test_written_to_a_stream(tmp_path: Path) -> None:
    """Checksums and sizes then come after the files."""

    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    files, stream = some_files(), Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    assert read_all(write(tmp_path, stream.getvalue())) == files


@pytest.mark.parametrize("method", METHODS)
def test_cut_at_random(method: int, tmp_path: Path) -> None:
    content, rng = zipped(some_files(), method, b"comment"), np.random.default_rng(0)
    for attempt in range(40):
        (tmp_path / str(attempt)).mkdir()
        cuts = np.sort(rng.integers(0, len(content) + 1, rng.integers(1, 9))).tolist()
        assert read_all(write(tmp_path / str(attempt), content, cuts)) == some_files(), cuts


def test_cut_everywhere_inside(tmp_path: Path) -> None:
    """In every byte of local headers, data, the central directory and the end."""
    files = {"a/1.jpg": b"some bytes", "a/2.jpg": b""}
    content = zipped(files)
    for cut in range(len(content) + 1):
        assert read_all(write(tmp_path, content, [cut, min(cut + 3, len(content))])) == files


@pytest.mark.slow
def test_more_files_than_16_bits_count(tmp_path: Path) -> None:
    files = {f"v/{number}.jpg": number.to_bytes(3, "big") for number in range(2**16 + 5)}
    archive = Archive(write(tmp_path, zipped(files)))
    entries = dict(archive.entries())
    assert entries.keys() == files.keys()
    for number in (0, 2**16 - 1, 2**16, 2**16 + 4):
        assert archive.read(entries[f"v/{number}.jpg"]) == number.to_bytes(3, "big")


def test_beyond_4_gib(tmp_path: Path) -> None:
    """Its first 5 GiB are a hole, which takes no space."""
    with (tmp_path / "a.zip").open("w+b") as file:
        file.truncate(5 * 2**30)
        with zipfile.ZipFile(file, "a") as archive:
            for name, content in some_files().items():
                archive.writestr(name, content)
    assert all(entry.offset >= 5 * 2**30 for _, entry in Archive(tmp_path / "a.zip").entries())
    assert read_all(tmp_path / "a.zip") == some_files()


def test_names_of_all_kinds(tmp_path: Path) -> None:
    names = ["#(&;![].jpg", "Grüße/1.jpg", "視頻/1.jpg", "a b/1.jpg", "é" * 500 + "/1.jpg"]
    files = {name: name.encode() for name in names}
    assert read_all(write(tmp_path, zipped(files))) == files


class TestPieces:
    def test_missing_piece(self, tmp_path: Path) -> None:
        path = write(tmp_path, zipped(some_files()), [100, 5000, 9000, 9001])
        (tmp_path / "a.zip.002").unlink()
        (tmp_path / "a.zip.004").unlink()
        with pytest.raises(UserError, match=r"incomplete: a\.zip\.002, a\.zip\.004 missing"):
            Archive(path)

    def test_missing_last_piece(self, tmp_path: Path) -> None:
        path = write(tmp_path, zipped(some_files()), [100, 5000])
        (tmp_path / "a.zip.003").unlink()
        with pytest.raises(UserError, match=r"a\.zip\.001 \(2 pieces\) cannot be read.*again"):
            list(Archive(path).entries())

    def test_missing_first_piece(self, tmp_path: Path) -> None:
        path = write(tmp_path, zipped(some_files()), [100])
        path.unlink()
        with pytest.raises(UserError, match=r"incomplete: a\.zip\.001 missing"):
            Archive(path)

    @pytest.mark.parametrize("name", ["a.zip", "a.zip.001"])
    def test_no_archive(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"a\.zip.*(does not exist|missing)"):
            Archive(tmp_path / name)

    def test_other_files_are_no_pieces(self, tmp_path: Path) -> None:
        path = write(tmp_path, zipped(some_files()), [100])
        for name in ("a.zip.0031", "a.zip.txt", "b.zip.001", "aXzip.003"):
            (tmp_path / name).touch()
        assert [part.name for part in parts_of(path)] == ["a.zip.001", "a.zip.002"]

    def test_name_with_special_characters(self, tmp_path: Path) -> None:
        path = write(tmp_path, zipped(some_files()), [100])
        for part in parts_of(path):
            part.rename(tmp_path / part.name.replace("a.", "a [1] *."))
        assert read_all(tmp_path / "a [1] *.zip.001") == some_files()


class TestDamage:
    @pytest.mark.parametrize(
        "content", [b"", b"PK", b"no zip at all" * 999, b"PK\x05\x06" + b"\xff" * 9]
    )
    def test_no_zip(self, content: bytes, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"a\.zip cannot be read.*no end"):
            list(Archive(write(tmp_path, content)).entries())

    def test_cut_off_or_without_its_beginning(self, tmp_path: Path) -> None:
        content = zipped(some_files())
        for size in (1, 21, 22, len(content) // 2, len(content) - 5, len(content) - 1):
            for part in (content[:size], content[-size:]):
                with pytest.raises(UserError, match=r"a\.zip cannot be read"):
                    list(Archive(write(tmp_path, part)).entries())

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("place", [2, 16, 27, 50])  # magic number, checksum, length, data
    def test_damaged_file(self, place: int, method: int, tmp_path: Path) -> None:
        content = bytearray(zipped({"1.jpg": bytes(range(200)), "2.jpg": b"whole"}, method))
        content[content.index(b"1.jpg") - 30 + place] ^= 0x55
        archive = Archive(write(tmp_path, bytes(content)))
        first, second = dict(archive.entries()).values()
        if place != 2:
            assert archive.read(second) == b"whole"
        with pytest.raises(UserError, match=r"a\.zip is damaged at byte \d+: download"):
            archive.read(first)

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_other_compression(self, method: int, tmp_path: Path) -> None:
        archive = Archive(write(tmp_path, zipped(some_files(), method)))
        with pytest.raises(UserError, match=rf"method {method}: unpack it and zip it"):
            archive.read(next(archive.entries())[1])

    def test_encrypted(self, tmp_path: Path) -> None:
        content = bytearray(zipped(some_files()))
        content[content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1) + 8] |= 1
        with pytest.raises(UserError, match="encrypted"):
            list(Archive(write(tmp_path, bytes(content))).entries())

    def test_piece_cut_off_while_it_is_read(self, tmp_path: Path) -> None:
        content = zipped(some_files())
        archive = Archive(write(tmp_path, content, [len(content) // 2]))
        entries = dict(archive.entries())
        with (tmp_path / "a.zip.001").open("r+b") as file:
            file.truncate(10)
        with pytest.raises(UserError, match="damaged"):
            archive.read(list(entries.values())[1])

    def test_any_damage_gives_the_right_bytes_or_an_error_for_the_user(
        self, tmp_path: Path
    ) -> None:
        files, rng = some_files(), np.random.default_rng(0)
        contents = [
            zipped(files, method, b"c", large) for method in METHODS for large in (False, True)
        ]
        errors = 0
        for attempt in range(400):
            content = bytearray(contents[attempt % 4])
            begin = (0, content.index(b"PK\x01\x02"), len(content) - 23)[attempt % 3]
            for place in rng.integers(begin, len(content), 1 + attempt % 5).tolist():
                content[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
            try:
                archive = Archive(write(tmp_path, bytes(content)))
                for _, entry in archive.entries():
                    # Renamed or left out it may be, but no file holds what none did.
                    assert archive.read(entry) in files.values()
            except UserError:
                errors += 1
        assert errors > 50


def record(offset: int, packed: int, unpacked: int, name: bytes, extra: bytes = b"") -> bytes:
    """A line of a central directory."""
    lengths = (len(name), len(extra), 0)
    sizes = struct.pack("<LLLHHHHHLL", 0, packed, unpacked, *lengths, 0, 0, 0, offset)
    return b"PK\x01\x02" + struct.pack("<HHHHHH", 20, 20, 0, 0, 0, 0) + sizes + name + extra


def hostile(directory: bytes, offset: int | None = None, size: int | None = None) -> bytes:
    body = b"PK\x03\x04" + bytes(60)
    place = len(body) if offset is None else offset
    length = len(directory) if size is None else size
    end = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 1, 1, length, place, 0)
    return body + directory + end


LIMIT = 2**32 - 1


class TestHostile:
    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "/etc/passwd", "C:\\a.jpg", "..\\a.jpg", "a/../../b.jpg", "\0"]
    )
    def test_names_lead_nowhere(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "inside").mkdir()
        files = {name.replace("\0", "\\0"): b"harmless"}
        path = write(tmp_path / "inside", zipped(files))
        assert list(read_all(path).values()) == [b"harmless"]
        assert [file.name for file in tmp_path.rglob("*")] == ["inside", "a.zip"]

    @pytest.mark.parametrize(
        "directory",
        [
            record(0, 10**6, 10**6, b"1.jpg"),
            record(10**6, 10, 10, b"1.jpg"),
            record(0, LIMIT, LIMIT, b"1.jpg"),  # 64-bit fields that are not there
            record(LIMIT, 1, 1, b"1.jpg", struct.pack("<HH", 1, 8)),
            record(LIMIT, 1, 1, b"1.jpg", struct.pack("<HHL", 1, 4, 1)),
            record(LIMIT, 1, 1, b"1.jpg", struct.pack("<HHQ", 1, 8, 2**64 - 1)),
            record(0, LIMIT, 1, b"1.jpg", struct.pack("<HHQ", 1, 8, 2**63)),
            record(LIMIT, LIMIT, LIMIT, b"1.jpg", b"\x01"),
            record(0, 1, 1, b"1.jpg")[:-1],
            record(0, 1, 1, b"1.jpg") + b"PK",
        ],
    )
    def test_sizes_that_lie(self, directory: bytes, tmp_path: Path) -> None:
        archive = Archive(write(tmp_path, hostile(directory)))
        with pytest.raises(UserError, match=r"a\.zip cannot be read"):
            list(archive.entries())

    @pytest.mark.parametrize(("offset", "size"), [(0, LIMIT), (LIMIT, 0), (10**6, 1), (0, 60)])
    def test_directory_that_lies(self, offset: int, size: int, tmp_path: Path) -> None:
        content = hostile(record(0, 1, 1, b"1.jpg"), offset, size)
        with pytest.raises(UserError, match=r"a\.zip cannot be read"):
            read_all(write(tmp_path, content))

    @pytest.mark.parametrize("offset", [0, 10, 2**63, 2**64 - 1])
    def test_64_bit_end_that_lies(self, offset: int, tmp_path: Path) -> None:
        content = hostile(record(0, 1, 1, b"1.jpg"))
        end = content.index(b"PK\x05\x06")
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, offset, 1)
        with pytest.raises(UserError, match=r"a\.zip cannot be read.*zip64"):
            read_all(write(tmp_path, content[:end] + locator + content[end:]))

    def test_64_bit_end_that_breaks_off(self, tmp_path: Path) -> None:
        content = hostile(record(0, 1, 1, b"1.jpg"))
        end = content.index(b"PK\x05\x06")
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end + 20 + 22, 1)
        comment = b"PK\x06\x06" + bytes(20)
        with pytest.raises(UserError, match=r"a\.zip cannot be read.*zip64"):
            read_all(write(tmp_path, content[:end] + locator + content[end:] + comment))

    def test_name_that_is_no_text(self, tmp_path: Path) -> None:
        content = zipped({"é.jpg": b"x"}).replace("é".encode(), b"\xff\xfe")
        assert list(read_all(write(tmp_path, content)).values()) == [b"x"]

    def test_file_that_unpacks_to_too_much(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive = Archive(write(tmp_path, zipped({"1.jpg": bytes(1000)}, zipfile.ZIP_DEFLATED)))
        ((_, entry),) = archive.entries()
        assert archive.read(entry) == bytes(1000)
        monkeypatch.setattr(archives, "_LARGEST", 999)
        with pytest.raises(UserError, match="damaged"):
            archive.read(entry)


def read_often(archive: Archive, expected: Files, seed: int, answer: Connection) -> None:
    """Read files in an order of one's own, again and again; answer how many were wrong."""
    entries, rng = list(archive.entries()), np.random.default_rng(seed)
    wrong = 0
    for place in rng.integers(len(entries), size=2000).tolist():
        name, entry = entries[place]
        wrong += archive.read(entry) != expected[name]
    answer.send(wrong)


class TestProcesses:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_several_read_one_archive_at_a_time(self, method: str, tmp_path: Path) -> None:
        if method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"no {method} here")
        files = some_files(40)
        archive = Archive(write(tmp_path, zipped(files), [3000, 9999]))
        assert read_all(archive.path) == files
        dict(archive.entries())  # its files are open when the processes start
        context: Any = multiprocessing.get_context(method)
        running = []
        for seed in range(4 if method == "fork" else 2):
            mine, its = context.Pipe()
            process = context.Process(target=read_often, args=(archive, files, seed, its))
            process.start()
            running.append((process, mine))
        for process, mine in running:
            assert mine.poll(60)
            assert mine.recv() == 0
            process.join()

    def test_pickled(self, tmp_path: Path) -> None:
        archive = Archive(write(tmp_path, zipped(some_files()), [3000]))
        entries = dict(archive.entries())
        other: Archive = pickle.loads(pickle.dumps(archive))
        assert not other._files  # another process's numbers of open files mean something else
        assert {name: other.read(entry) for name, entry in entries.items()} == some_files()

    def test_files_are_closed(self, tmp_path: Path, count_open: Callable[[], int]) -> None:
        path, before = write(tmp_path, zipped(some_files()), [3000]), count_open()
        archive = Archive(path)
        list(archive.entries())
        assert count_open() == before + 2
        del archive
        assert count_open() == before


@pytest.fixture
def count_open() -> Callable[[], int]:
    """The number of files that this process has open."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("the system does not tell")
    return lambda: len(list(folder.iterdir()))
