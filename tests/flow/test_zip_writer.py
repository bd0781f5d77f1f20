"""The archive that grows: what a kill leaves counts up to the last whole video."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from src.data.archives import Archive
from src.flow.formats import FORMATS, Format, ZipArchive
from src.flow.zip_writer import GrowingZip, write_images

VIDEOS = {
    "a#(b) [1]": [(b"u1", b"v1 longer"), (b"u2", b"")],
    "größe": [(b"PK\x05\x06", b"PK\x01\x02")],  # what directories begin with
    "c": [(bytes(range(256)) * 9, b"v")] * 3,
}
EXPECTED = {
    f"{component}/{video}/frame{number:06d}.jpg": data
    for video, fields in VIDEOS.items()
    for number, field in enumerate(fields, start=1)
    for component, data in zip("uv", field, strict=True)
}


class Killed(BaseException):
    """Stands for the end of the process."""


def add(archive: GrowingZip, video: str, folder: Path) -> None:
    piece = folder / "piece"
    with piece.open("wb") as file:
        images = write_images(file, video, VIDEOS[video])
    archive.add(video, piece, images)


def make(path: Path) -> None:
    """Add what is not there yet, and finish."""
    archive = GrowingZip(path)
    for video in VIDEOS:
        if video not in archive.videos:
            add(archive, video, path.parent)
    archive.finish()


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "flow.zip"
    make(path)
    return path


def test_is_read_by_zipfile_and_by_archive(whole: Path) -> None:
    assert contents(whole) == EXPECTED
    archive = Archive(whole)
    assert {name: archive.read(entry) for name, entry in archive.entries()} == EXPECTED
    with zipfile.ZipFile(whole) as archive_:
        assert {info.compress_type for info in archive_.infolist()} == {zipfile.ZIP_STORED}
    assert {file.name for file in whole.parent.iterdir()} == {"flow.zip", "piece"}


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda partial, journal: None, id="between videos"),
        pytest.param(
            lambda partial, journal: partial.write_bytes(partial.read_bytes() + b"half" * 9999),
            id="within a video",
        ),
        pytest.param(
            lambda partial, journal: journal.write_bytes(journal.read_bytes()[:-1]),
            id="within the last line",
        ),
        pytest.param(
            lambda partial, journal: os.truncate(partial, partial.stat().st_size - 1),
            id="data not on the disk",
        ),
    ],
)
def test_goes_on_after_the_last_whole_video(
    damage: Callable[[Path, Path], None], place: int, whole: Path, tmp_path: Path
) -> None:
    archive = GrowingZip(tmp_path / "flow.zip")
    for video in [*VIDEOS][: place + 1]:
        add(archive, video, tmp_path)
    damage(tmp_path / "flow.zip.partial", tmp_path / "flow.zip.journal")
    make(tmp_path / "flow.zip")
    assert (tmp_path / "flow.zip").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("call", range(1, 5))
def test_a_kill_at_any_write_to_the_disk(
    call: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def fsync(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(Killed):
            make(tmp_path / "flow.zip")
    assert len(GrowingZip(tmp_path / "flow.zip").videos) == call - 1
    make(tmp_path / "flow.zip")
    assert (tmp_path / "flow.zip").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("step", ["rename", "unlink"])
def test_a_kill_while_finishing(
    step: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, killed)
        with pytest.raises(Killed):
            make(tmp_path / "flow.zip")
    (tmp_path / "piece").unlink()
    target = ZipArchive(tmp_path, "flow")
    assert target.videos() == VIDEOS.keys()
    target.finish()
    assert (tmp_path / "flow.zip").read_bytes() == whole.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["flow.zip"]


def test_nothing_is_left_of_an_archive_without_videos(tmp_path: Path) -> None:
    GrowingZip(tmp_path / "flow.zip").finish()
    assert not list(tmp_path.iterdir())


def test_more_than_65535_images(tmp_path: Path) -> None:
    archive, piece = GrowingZip(tmp_path / "flow.zip"), tmp_path / "piece"
    with piece.open("wb") as file:
        images = write_images(file, "long", ((b"%d" % i, b"v") for i in range(33000)))
    archive.add("long", piece, images)
    archive.finish()
    with zipfile.ZipFile(tmp_path / "flow.zip") as zipped:
        assert len(zipped.namelist()) == 66000
    end = (tmp_path / "flow.zip").read_bytes()[-98:]  # zip64 end, its locator, end
    assert end.startswith(b"PK\x06\x06")
    assert int.from_bytes(end[32:40], "little") == 66000
    entries = dict(Archive(tmp_path / "flow.zip").entries())
    assert len(entries) == 66000
    assert Archive(tmp_path / "flow.zip").read(entries["u/long/frame033000.jpg"]) == b"32999"


def test_more_than_4_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file with a hole, and with a video in front whose image is the hole."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    header = io.BytesIO()
    write_images(header, "hole", [(b"", b"")])
    archive, hole = GrowingZip(tmp_path / "flow.zip"), 2**32 - 2 * len(header.getvalue())
    second = len(header.getvalue()) // 2
    with (tmp_path / "flow.zip.partial").open("r+b") as file:
        file.write(header.getvalue()[:second])
        file.seek(second + hole)
        file.write(header.getvalue()[second:])
        end = file.tell()
    line = f'{{"video":"hole","end":{end},"images":[[{hole},0],[0,0]]}}\n'
    (tmp_path / "flow.zip.journal").write_text(line)
    archive = GrowingZip(tmp_path / "flow.zip")
    for video in VIDEOS:
        add(archive, video, tmp_path)
    archive.finish()
    assert (tmp_path / "flow.zip").stat().st_size > 2**32
    with zipfile.ZipFile(tmp_path / "flow.zip") as zipped:
        assert {name: zipped.read(name) for name in EXPECTED} == EXPECTED
    reader = Archive(tmp_path / "flow.zip")
    entries = dict(reader.entries())
    assert max(entry.offset for entry in entries.values()) >= 2**32
    assert {name: reader.read(entries[name]) for name in EXPECTED} == EXPECTED


@pytest.mark.parametrize("kind", FORMATS.values())
def test_a_part_that_is_taken_over_is_gone(kind: type[Format], tmp_path: Path) -> None:
    """Or a run would need twice the room on the disk."""
    output, part = tmp_path / "flow", tmp_path / "part"
    output.mkdir()
    target = kind(output, "flow")
    target.take(part, "c", kind.write(part, "c", VIDEOS["c"]))
    assert not part.exists()
    assert target.videos() == {"c"}
