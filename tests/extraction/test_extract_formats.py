"""Zip archives and folders of JPEG files: the same images, whatever interrupts their making."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from src.extraction import formats
from src.extraction.extract import extract_flow
from src.extraction.formats import FORMATS, Format, JpegFolders, ZipArchives
from src.extraction.products import FRAMES_FILE
from src.flow.algorithm import Fields, FlowAlgorithm, Frames
from src.flow.settings import FILE_NAME, FlowSettings
from src.media.archives import Archive
from src.media.find_videos import find_videos
from src.media.images import FlowImages, open_images
from src.media.skipped import SOURCES
from src.utils.errors import UserError
from tests.builders import moving_texture, write_video

FAST = FlowSettings("dis", {"finest_scale": 0}, short_side=64)
SLOW = FlowSettings("tvl1", {"nscales": 3, "warps": 3}, short_side=40)
NAMES = ("a", "b (1)#;", "c", "d", "e", "f")
FIELDS = {
    "a#(b) [1]": [(b"u1", b"v1 longer"), (b"u2", b"")],
    "größe": [(b"PK\x05\x06", b"PK\x01\x02")],  # what directories begin with
    "c": [(bytes(range(256)) * 9, b"v")] * 3,
}
IMAGES = {
    f"{component}/{video}/frame{number:06d}.jpg": data
    for video, fields in FIELDS.items()
    for number, field in enumerate(fields, start=1)
    for component, data in zip("uv", field, strict=True)
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        frames = moving_texture((number - 2.0, 1.0), frames=6 + number)
        write_video(folder / f"{name}.mp4", frames)
    return find_videos(folder)


@pytest.fixture(scope="module")
def jpeg(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SLOW flow that tests only read, made by two workers without disturbance."""
    output = tmp_path_factory.mktemp("jpeg")
    assert extract_flow(videos, output, SLOW, workers=2).done == len(NAMES)
    return output


@pytest.fixture(scope="module")
def archive(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as an archive."""
    output = tmp_path_factory.mktemp("zip")
    result = extract_flow(videos, output, SLOW, workers=2, format="zip")
    assert (result.done, result.reused, result.failed) == (len(NAMES), 0, {})
    return output


def images_in(output: Path) -> dict[str, bytes]:
    """The images of a folder of flow or frames by their names, and that there is nothing else."""
    files = {str(file.relative_to(output)): file for file in output.rglob("*") if file.is_file()}
    assert len(files.keys() & {FILE_NAME, FRAMES_FILE}) == 1
    files = {name: file for name, file in files.items() if not name.endswith(".json")}
    if {"u", "rgb"} & {entry.name for entry in output.iterdir()}:
        return {name: file.read_bytes() for name, file in files.items()}
    images: dict[str, bytes] = {}
    for file in files.values():
        with zipfile.ZipFile(file) as zipped:
            assert zipped.testzip() is None
            names = zipped.namelist()
            assert not images.keys() & set(names)
            assert len(set(names)) == len(names)
            images |= {name: zipped.read(name) for name in names}
    return images


@pytest.mark.slow
def test_an_archive_holds_the_files_of_the_folders(jpeg: Path, archive: Path) -> None:
    assert {entry.name for entry in archive.iterdir()} == {"flow.zip", FILE_NAME}
    expected = images_in(jpeg)
    fields = sum(5 + number for number in range(len(NAMES)))
    assert len(expected) == 2 * fields + len(NAMES)  # with what each was made of
    assert images_in(archive) == expected
    assert FlowSettings.load(archive) == SLOW


def test_an_archive_is_read_as_the_folders_are(jpeg: Path, archive: Path) -> None:
    folders, archives = open_images(jpeg), open_images(archive)
    assert archives.videos("u") == folders.videos("u") == archives.videos("v")
    for name in NAMES:
        ours, theirs = FlowImages(archives, name), FlowImages(folders, name)
        assert ours.num_fields == theirs.num_fields
        indices = range(ours.num_fields)
        for field, other in zip(ours.flow(indices), theirs.flow(indices), strict=True):
            assert (field[0] == other[0]).all()
            assert (field[1] == other[1]).all()


def test_new_videos_go_to_another_archive(videos: list[Path], jpeg: Path, tmp_path: Path) -> None:
    assert extract_flow(videos[:2], tmp_path, SLOW, workers=1, format="zip").done == 2
    first = (tmp_path / "flow.zip").read_bytes()
    result = extract_flow(videos[:3], tmp_path, SLOW, workers=1, format="zip")
    assert (result.done, result.reused) == (1, 2)
    again = extract_flow(videos[:3], tmp_path, SLOW, workers=1, format="zip")
    assert (again.done, again.reused) == (0, 3)
    assert {file.name for file in tmp_path.iterdir()} == {"flow.zip", "flow-2.zip", FILE_NAME}
    assert (tmp_path / "flow.zip").read_bytes() == first
    names = {video.stem for video in videos[:3]}
    expected = {
        name: data
        for name, data in images_in(jpeg).items()
        if name.split("/")[1].removesuffix(".txt") in names
    }
    assert images_in(tmp_path) == expected
    assert open_images(tmp_path).videos("u").keys() == names


def test_the_largest_video_comes_first(videos: list[Path], tmp_path: Path) -> None:
    extract_flow(videos, tmp_path, FAST, workers=1, format="zip")
    with zipfile.ZipFile(tmp_path / "flow.zip") as zipped:
        images = [name for name in zipped.namelist() if name.endswith(".jpg")]
        order = list(dict.fromkeys(name.split("/")[1] for name in images))
    by_size = sorted(videos, key=lambda video: video.stat().st_size, reverse=True)
    assert by_size != videos
    assert order == [video.stem for video in by_size]


def test_no_archive_without_a_video(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    result = extract_flow([tmp_path / "broken.mp4"], tmp_path / "flow", FAST, 1, format="zip")
    assert result.failed.keys() == {"broken"}
    files = {file.name for file in (tmp_path / "flow").iterdir()}
    assert files == {FILE_NAME, "failed.csv"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (FAST, "algorithm tvl1 there, dis now"),
        (FlowSettings("tvl1", {"nscales": 3, "warps": 4}, short_side=40), "warps 3 there, 4 now"),
    ],
)
def test_two_ways_in_one_folder_are_refused(
    format: str,
    settings: FlowSettings,
    named: str,
    videos: list[Path],
    request: pytest.FixtureRequest,
) -> None:
    output: Path = request.getfixturevalue({"jpeg": "jpeg", "zip": "archive"}[format])
    with pytest.raises(UserError, match=named):
        extract_flow(videos, output, settings, workers=1, format=format)


def test_two_formats_in_one_folder_are_refused(
    videos: list[Path], jpeg: Path, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="format jpeg, not zip"):
        extract_flow(videos, jpeg, SLOW, workers=1, format="zip")
    with pytest.raises(UserError, match="format zip, not jpeg"):
        extract_flow(videos, archive, SLOW, workers=1)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(archive / FILE_NAME, unfinished)
    (unfinished / "flow-03-of-64.zip.001").touch()
    with pytest.raises(UserError, match="format zip, not jpeg"):
        extract_flow(videos, unfinished, SLOW, workers=1)
    (tmp_path / "flow.zip.001").touch()
    with pytest.raises(UserError, match=f"without {FILE_NAME}"):
        extract_flow(videos, tmp_path, SLOW, workers=1, format="zip")
    with pytest.raises(UserError, match=r"format=avi: choose from jpeg, zip"):
        extract_flow(videos, tmp_path / "new", SLOW, workers=1, format="avi")
    assert not (tmp_path / "new").exists()


def test_killed_between_u_and_v(videos: list[Path], jpeg: Path, tmp_path: Path) -> None:
    """At the only moment when a video is in its place by half."""
    part = tmp_path / "part"
    for component in "uv":
        shutil.copytree(jpeg / component / "c", part / component)
    shutil.copy(jpeg / SOURCES / "c.txt", part / SOURCES)
    rename, renamed = Path.rename, 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal renamed
        renamed += 1
        if renamed == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    output = tmp_path / "flow"
    output.mkdir()
    folders = JpegFolders(output, "uv", tmp_path, "flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            folders.take(part, "c")
    assert (output / "u" / "c").exists()
    assert folders.videos() == set()


SCRIPT = """
import sys
from pathlib import Path
from src.media.find_videos import find_videos
from src.extraction import formats
from src.extraction.extract import extract_flow
from src.flow.settings import FlowSettings
formats.VIDEOS_PER_ARCHIVE = 2
settings = FlowSettings("tvl1", {"nscales": 3, "warps": 3}, short_side=40)
extract_flow(find_videos(Path(sys.argv[1])), Path(sys.argv[2]), settings, 2, format=sys.argv[3])
"""


def kill_in_the_middle(videos: Path, output: Path, format: str) -> None:
    """SIGKILL the parent of two workers when some videos are done, and wait for the workers."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SCRIPT, str(videos), str(output), format]
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + 60
            sign = "v/*" if format == "jpeg" else "flow.zip"
            while not any(output.glob(sign)):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.002)
            process.kill()
            process.communicate(timeout=30)  # until the last process has let go of its stderr
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_killed_and_gone_on_with(
    format: str, videos: list[Path], jpeg: Path, tmp_path: Path
) -> None:
    output = tmp_path / "flow"
    kill_in_the_middle(videos[0].parent, output, format)
    assert (output / ".flow.partial").is_dir()  # it was killed under way
    files = {file: file.read_bytes() for file in output.glob("*.zip")}
    result = extract_flow(videos, output, SLOW, workers=2, format=format)
    assert 1 <= result.reused < len(NAMES)
    assert result.done == len(NAMES) - result.reused
    assert all(file.read_bytes() == content for file, content in files.items())
    assert images_in(output) == images_in(jpeg)  # which includes that nothing else is left
    assert (output / FILE_NAME).read_bytes() == (jpeg / FILE_NAME).read_bytes()


def write(kind: type[Format], part: Path, video: str, source: str) -> None:
    with kind.part(part, "uv", video, source) as add:
        for number, field in enumerate(FIELDS[video], start=1):
            for component, data in zip("uv", field, strict=True):
                add(component, number, data)


@pytest.mark.parametrize("kind", FORMATS.values())
def test_a_part_that_is_taken_over_is_gone(kind: type[Format], tmp_path: Path) -> None:
    """Or a run would need twice the room on the disk."""
    output, part = tmp_path / "flow", tmp_path / "part"
    output.mkdir()
    target = kind(output, "uv", tmp_path, "flow")
    write(kind, part, "c", "1-a")
    target.take(part, "c")
    assert not part.exists()
    target.finish()
    assert target.videos() == {"c"}


@pytest.mark.parametrize(("size", "archives"), [(200, 1), (2, 2), (1, 3)])
def test_archives_of_so_many_videos(
    size: int, archives: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read alike by zipfile, by our reader and, once unpacked, by anybody."""
    monkeypatch.setattr(formats, "VIDEOS_PER_ARCHIVE", size)
    output, work = tmp_path / "flow", tmp_path / "work"
    output.mkdir()
    work.mkdir()
    target = ZipArchives(output, "uv", work, "flow")
    for video in FIELDS:
        write(ZipArchives, work / video, video, f"7-{video}")
        target.take(work / video, video)
    target.finish()
    target.finish()  # nothing is left to do
    names = ["flow.zip", "flow-2.zip", "flow-3.zip"][:archives]
    assert {file.name for file in output.iterdir()} == set(names)
    assert not list(work.iterdir())
    ours: dict[str, bytes] = {}
    theirs: dict[str, bytes] = {}
    for name in names:
        archive = Archive(output / name)
        ours |= {entry_name: archive.read(entry) for entry_name, entry in archive.entries()}
        with zipfile.ZipFile(output / name) as zipped:
            assert zipped.testzip() is None
            theirs |= {info.filename: zipped.read(info) for info in zipped.infolist()}
            assert {info.compress_type for info in zipped.infolist()} == {zipfile.ZIP_STORED}
            assert {info.external_attr >> 16 for info in zipped.infolist()} == {0o100644}
    sources = {f"{SOURCES}/{video}.txt": f"7-{video}".encode() for video in FIELDS}
    assert ours == theirs == IMAGES | sources
    assert target.videos() == FIELDS.keys()


@pytest.mark.slow
def test_what_was_extracted_before_a_worker_died_stays(videos: list[Path], tmp_path: Path) -> None:
    """The archive that was begun is completed."""
    with pytest.raises(UserError, match="a worker process died"):
        extract_flow(videos, tmp_path, Mortal("dis", {"finest_scale": 0}, 64), 1, format="zip")
    result = extract_flow(videos, tmp_path, FAST, workers=1, format="zip")
    assert (result.done, result.reused) == (len(NAMES) - 1, 1)


class Mortal(FlowSettings):
    """Ends a worker process at its second video."""

    def make(self, device: str = "cpu") -> FlowAlgorithm:
        algorithm, sizes = super().make(device), list[int]()

        def fields(first: Frames, second: Frames) -> Fields:
            sizes.append(len(first))
            if len(sizes) > len(NAMES) + 4:  # fields of the largest video
                os.kill(os.getpid(), signal.SIGTERM)
            return algorithm.fields(first, second)

        return FlowAlgorithm(fields)
