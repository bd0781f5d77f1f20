"""Flow of a video whose file is another one by now, or that was seen lying, is made again."""

import json
import os
import shutil
from pathlib import Path

import pytest

from src.data.stores import open_flow
from src.extraction.extract import Extraction, extract_flow
from src.extraction.provenance import source_of, sources_kept
from src.extraction.shards import Shard
from src.flow.settings import FILE_NAME, FlowSettings, mark_upright
from src.media.images import open_images
from src.media.skipped import SOURCES
from src.utils.errors import UserError
from tests.builders import moving_texture, stored_flow, write_video
from tests.media.odd_videos import FRAMES, TURNS, turned

DIS = FlowSettings("dis", {"finest_scale": 0}, short_side=48)
MIB = 2**20


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "videos"
    return [
        write_video(folder / f"{name}.mp4", moving_texture(shift, frames=4, size=(48, 64)))
        for name, shift in (("Right", (2.0, 0.0)), ("down", (0.0, 2.0)), ("up", (0.0, -2.0)))
    ]


def extract(videos: list[Path], output: Path, format: str = "jpeg") -> Extraction:
    return extract_flow(videos, output, DIS, workers=1, format=format)


def mean_u(output: Path, video: str) -> float:
    (field,) = stored_flow(output, video).flow([1])
    return float(field[0].mean())


@pytest.mark.parametrize("where", [0, MIB - 1, MIB, 3 * MIB, -1])
def test_a_source_is_known_by_its_size_and_both_ends(where: int, tmp_path: Path) -> None:
    content = bytearray(os.urandom(4 * MIB))
    file = tmp_path / "a.mp4"
    file.write_bytes(content)
    before = source_of(file)
    os.utime(file, (1, 1))
    assert source_of(Path(shutil.copy(file, tmp_path / "copy"))) == source_of(file) == before
    content[where] ^= 1
    file.write_bytes(content)
    assert (source_of(file) == before) == (where == MIB)  # what lies between is not looked at
    file.write_bytes(content + b"1")
    assert source_of(file) != before
    assert source_of(tmp_path / "absent") == ""


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 2 * MIB])
def test_of_small_files_every_byte_counts(size: int, tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(bytes(size))
    seen = {source_of(file)}
    for place in {0, size // 2, max(0, size - 1)}:
        file.write_bytes(bytes(place) + b"1" + bytes(max(0, size - place - 1)))
        seen.add(source_of(file))
    assert len(seen) == len({0, size // 2, max(0, size - 1)}) + 1


@pytest.mark.parametrize("format", ["jpeg", "zip"])
def test_sources_are_kept_beside_the_flow(format: str, videos: list[Path], tmp_path: Path) -> None:
    extract(videos, tmp_path / "flow", format)
    assert sources_kept(tmp_path / "flow") == {v.stem.lower(): source_of(v) for v in videos}
    assert open_images(tmp_path / "flow").videos("rgb") == {}
    assert sources_kept(tmp_path / "videos") == {}


def test_a_video_that_was_replaced_is_extracted_again(
    videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "flow"
    extract(videos, output)
    times = videos[0].stat()
    assert mean_u(output, "Right") > 135 > mean_u(output, "down")
    shutil.copyfile(videos[1], videos[0])
    os.utime(videos[0], ns=(times.st_atime_ns, times.st_mtime_ns))  # as some copies keep it
    videos[2].touch()
    with caplog.at_level("INFO"):
        again = extract(videos, output)
    assert (again.done, again.reused) == (1, 2)
    assert mean_u(output, "Right") == pytest.approx(mean_u(output, "down"))
    assert any(
        "flow of videos that 1 have changed is extracted again" in m for m in caplog.messages
    )
    assert (extract(videos, output).done, extract(videos, output).reused) == (0, 3)


def test_a_replacement_that_is_broken_has_no_flow(videos: list[Path], tmp_path: Path) -> None:
    extract(videos, tmp_path / "flow")
    videos[0].write_bytes(b"no video" * 100)
    for _ in range(2):
        again = extract(videos, tmp_path / "flow")
        assert (list(again.failed), again.reused) == (["Right"], 2)
        assert open_images(tmp_path / "flow").videos("v").keys() == {"down", "up"}


def test_a_kill_between_flow_and_record_leaves_no_old_flow(
    videos: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "flow"
    extract(videos, output)
    shutil.copyfile(videos[1], videos[0])
    shutil.rmtree(output / "v" / "Right")  # the first step of dropping it
    assert extract(videos, output).done == 1
    assert mean_u(output, "Right") == pytest.approx(mean_u(output, "down"))
    assert sources_kept(output)["right"] == source_of(videos[0])


def test_flow_whose_source_nobody_knows_stays(videos: list[Path], tmp_path: Path) -> None:
    extract(videos, tmp_path / "flow")
    shutil.rmtree(tmp_path / "flow" / SOURCES)
    shutil.copyfile(videos[1], videos[0])
    assert extract(videos, tmp_path / "flow").reused == 3


def test_of_an_archive_the_file_to_delete_is_named(videos: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "my flow"
    extract(videos[:1], output, "zip")
    extract(videos, output, "zip")
    shutil.copyfile(videos[1], videos[0])
    told = rf"such as Right: rm '{output / 'flow.zip'}', then rerun"
    with pytest.raises(UserError, match=told):
        extract(videos, output, "zip")
    (output / "flow.zip").unlink()
    again = extract(videos, output, "zip")
    assert (again.done, again.reused) == (1, 2)
    assert mean_u(output, "Right") == pytest.approx(mean_u(output, "down"))


class TestFromBeforeVideosWereTurned:
    @pytest.fixture
    def output(self, videos: list[Path], tmp_path: Path) -> Path:
        """Flow of an earlier version, which saw two of the videos lying."""
        for turn in ("quarter clockwise", "half"):
            videos.append(turned(tmp_path / "videos" / f"{turn}.mp4", TURNS[turn][0]))
        output = tmp_path / "flow"
        extract(videos, output)
        shutil.rmtree(output / SOURCES)
        record = json.loads((output / FILE_NAME).read_text())
        assert record.pop("upright")
        (output / FILE_NAME).write_text(json.dumps(record))
        return output

    def test_it_is_refused(self, output: Path) -> None:
        with pytest.raises(UserError, match=r"flow\.json is from before .* src.extract_flow"):
            open_flow(str(output), None, None, None)
        mark_upright(output)
        assert FlowSettings.load(output) == DIS
        open_flow(str(output), None, None, None)

    def test_flow_of_others_is_not(self, output: Path) -> None:
        record = json.loads((output / FILE_NAME).read_text())
        del record["versions"]  # which extraction writes
        (output / FILE_NAME).write_text(json.dumps(record))
        assert FlowSettings.load(output) == DIS

    def test_turned_videos_are_extracted_again(self, output: Path, videos: list[Path]) -> None:
        with pytest.raises(UserError, match="extract once without shard"):
            extract_flow(videos, output, DIS, workers=1, shard=Shard(1, 2))
        again = extract(videos, output)
        assert (again.done, again.reused, again.frames) == (2, 3, 2 * FRAMES)
        assert FlowSettings.load(output) == DIS
        assert extract(videos, output).reused == 5
