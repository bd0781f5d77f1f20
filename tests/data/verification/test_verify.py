"""Every planted fault is found and nothing else, in small made-up trees under official names."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src import extract_flow as extract_flow_command
from src import verify_data
from src.data.splits import group_of, read_hmdb51, read_ucf101
from src.data.verification.report import MOVES, report, write_report
from src.data.verification.verify import Lists, Verification, read_lists, verify
from src.data.videos import Split, Video, key_of
from src.extraction.extract import extract_flow
from src.extraction.provenance import source_of
from src.flow.settings import FlowSettings
from src.media.skipped import SOURCES
from src.utils.errors import UserError
from src.utils.processes import WorkerCrashed, in_parallel
from tests.builders import CLIPS
from tests.data.verification.damaged import (
    FLOW_FAULTS,
    FRAMES,
    SMALL,
    CrashingChecker,
    MadeUp,
    Names,
    crash_hang_or_double,
    fill,
    image,
    on_disk,
    plant,
    read_small,
    small_clip,
)

OFFICIAL = CLIPS.parent
needs_lists = pytest.mark.skipif(
    not (OFFICIAL / "hmdb51_splits").is_dir(), reason="no official lists here"
)
STACK = 10


def made_up(folder: Path) -> MadeUp:
    (folder / "parts").mkdir(parents=True)
    return MadeUp(folder, small_clip(folder / "parts"), FRAMES, SMALL)


def run(dataset: Any, tree: MadeUp, **changes: Any) -> Verification:
    arguments: dict[str, Any] = {
        "rgb": "videos",
        "flow": str(tree.flow),
        "stack": STACK,
        "manifest": str(tree.root / "manifest.jsonl"),
        "workers": 2,
    }
    return verify(dataset, **arguments | changes)


def found(verification: Verification) -> Names:
    return {code: set(details) for code, details in verification.details.items()}


class Small:
    """A small tree, its lists, and what was planted in it."""

    def __init__(self, root: Path, in_folders: bool) -> None:
        self.tree, self.dataset = made_up(root), partial(read_small, root=str(root))
        self.videos = read_lists(self.dataset).videos
        self.in_folders = in_folders
        fill(self.tree, self.videos, in_folders)

    def plant(self) -> Names:
        return plant(self.tree, self.videos, self.in_folders)

    def verify(self, **changes: Any) -> Verification:
        place = {"rgb": str(self.tree.jpegs)} if self.in_folders else {}
        return run(self.dataset, self.tree, **place | changes)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path / "small", in_folders=False)


class TestFaults:
    @pytest.mark.parametrize("in_folders", [False, True])
    @pytest.mark.parametrize("full", [False, True])
    def test_all_are_found_and_nothing_else(
        self, in_folders: bool, full: bool, tmp_path: Path
    ) -> None:
        small = Small(tmp_path, in_folders)
        sound = small.verify(full=full)
        assert found(sound) == {}
        assert not sound.failed
        planted = small.plant()
        damaged = small.verify(full=full)
        assert found(damaged) == planted
        assert damaged.failed
        assert damaged.extra == {"rgb": [], "flow": []}
        # Only what has changed was looked at again.
        assert 0 < damaged.checked <= 2 * len(planted) + 4
        assert damaged.checked + damaged.cached == 2 * len(small.videos) - 2

    def test_what_is_there_and_no_file(self, small: Small) -> None:
        """Links that lead nowhere or to themselves, a folder and a pipe under videos' names."""
        files = [on_disk(video) for video in small.videos[:4]]
        for file in files:
            file.unlink()
        nowhere, itself, folder, pipe = files
        nowhere.symlink_to("/nowhere.avi")
        itself.symlink_to(itself.name)
        folder.mkdir()
        os.mkfifo(pipe)
        for _ in range(2):  # nothing of them is kept that hides them the next time
            keys = {code: sorted(names) for code, names in found(small.verify()).items()}
            named = [key_of(video) for video in small.videos[:4]]
            assert keys == {"rgb_broken": sorted(named[:3]), "rgb_empty": named[3:]}
        nowhere.unlink()
        small.tree.write_clip(nowhere)
        assert key_of(small.videos[0]) not in found(small.verify())["rgb_broken"]

    def test_odd_names_are_told(self, small: Small, capsys: pytest.CaptureFixture[str]) -> None:
        """Of another encoding, or with what a terminal obeys."""
        for name in ("caf\udce9.avi", "\x1b[2J.avi"):
            small.videos[0].path.with_name(name).touch()
        verification = small.verify()
        print(report(verification))
        for text in (capsys.readouterr().out, write_report(verification).read_text()):
            assert r"caf\udce9.avi" in text
            assert r"\x1b[2J.avi" in text
            assert "\x1b" not in text

    def test_only_full_sees_the_middle_of_everything(self, small: Small) -> None:
        file = image(small.tree.flow / "u" / small.videos[0].name, 3)
        small.tree.replace(file, file.read_bytes()[:-200])
        assert found(small.verify()) == {}
        thorough = small.verify(full=True)
        assert found(thorough) == {"flow_truncated": {key_of(small.videos[0])}}
        assert thorough.cached == 0
        assert str(file) in report(thorough)
        # A thorough look serves for a quick one.
        assert found(small.verify()) == found(thorough)
        assert small.verify().checked == 0

    def test_archives(self, small: Small, tmp_path: Path) -> None:
        names = [video.name for video in small.videos[:5]]
        gap, damaged, truncated, uv, gone = names
        image(small.tree.flow / "u" / gap, 4).unlink()
        image(small.tree.flow / "v" / gap, 4).unlink()
        file = image(small.tree.flow / "u" / truncated, -1)
        small.tree.replace(file, file.read_bytes()[:-200])
        image(small.tree.flow / "v" / uv, -1).unlink()
        archive = small.tree.root / "flow.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in sorted(small.tree.flow.rglob("*.jpg")):
                if file.parent.name != gone:
                    zipped.write(file, file.relative_to(small.tree.flow))
            header = zipped.getinfo(f"u/{damaged}/frame000001.jpg").header_offset
        with archive.open("r+b") as content:
            content.seek(header)
            content.write(b"gone")
        keys = [key_of(video) for video in small.videos]
        verification = small.verify(flow=str(archive))
        assert found(verification) == {
            "flow_gap": {keys[0]},
            "flow_broken": {keys[1]},
            "flow_truncated": {keys[2]},
            "flow_uv": {keys[3]},
            "flow_missing": {keys[4]},
        }
        assert small.verify(flow=str(archive)).checked == 0
        os.utime(archive, (1, 1))  # another archive
        assert small.verify(flow=str(archive)).checked == len(small.videos) - 1

    def test_first_image_is_missing(self, small: Small) -> None:
        for component in "uv":
            image(small.tree.flow / component / small.videos[0].name, 1).unlink()
        assert found(small.verify()) == {"flow_gap": {key_of(small.videos[0])}}

    def test_what_no_list_names(self, small: Small) -> None:
        small.tree.write_clip(small.videos[0].path.with_name("other.avi"))
        small.tree.write_clip(small.videos[0].path.parent.parent / "unknown" / "more.avi")
        small.tree.write_clip(small.videos[0].path.with_name(".hidden"))
        small.tree.write_flow("other", 3)
        verification = small.verify()
        assert verification.extra == {
            "rgb": ["unknown/more.avi", "wave/other.avi"],
            "flow": ["other"],
        }
        assert found(verification) == {}
        assert not verification.failed
        assert "wave/other.avi" in report(verification)

    def test_one_of_both_may_be_absent(self, small: Small) -> None:
        shutil.rmtree(small.tree.flow)
        verification = small.verify()
        assert found(verification) == {}
        assert not verification.failed
        videos = small.tree.root / "videos"
        assert f"no flow yet: python -m src.extract_flow input={videos}" in report(verification)
        on_the_fly = report(small.verify(flow="on_the_fly"))
        assert "flow is computed from the frames" in on_the_fly
        assert "extract_flow" not in on_the_fly
        with pytest.raises(UserError, match=r"neither frames .* nor flow"):
            small.verify(rgb="gone")

    def test_a_copy_with_its_flow_is_one_finding(self, small: Small) -> None:
        one, other = small.videos[:2]
        shutil.copyfile(one.path, other.path)
        for component in "uv":
            shutil.rmtree(small.tree.flow / component / other.name)
            shutil.copytree(
                small.tree.flow / component / one.name, small.tree.flow / component / other.name
            )
        assert found(small.verify()) == {"rgb_duplicate": {key_of(one), key_of(other)}}

    def test_copy_in_the_test_part(self, small: Small) -> None:
        one, other = small.videos[0], small.videos[-1]
        shutil.copyfile(one.path, other.path)
        text = report(small.verify())
        assert "note across: the same frames in train and test: 2" in text  # of splits 1 and 2

    def test_sizes_and_numbers_that_are_both_wrong(self, small: Small) -> None:
        key = {key_of(small.videos[0])}
        for fault in ("flow_count", "flow_sizes"):
            FLOW_FAULTS[fault](small.tree, small.videos[0])
        assert found(small.verify()) == {"flow_count": key, "flow_sizes": key}

    def test_flow_of_another_file(self, small: Small) -> None:
        video, other = small.videos[:2]
        for known in small.videos[:4]:
            record = small.tree.flow / SOURCES / f"{known.name}.txt"
            record.parent.mkdir(exist_ok=True)
            record.write_text(source_of(on_disk(known)))
        FlowSettings().save(small.tree.flow)
        assert found(small.verify()) == {}
        file = on_disk(video)
        small.tree.write_clip(file, small.tree.clip + b"JUNK" + bytes(4))
        os.utime(on_disk(other), (1, 1))  # is the same still
        assert found(small.verify()) == {"flow_source": {key_of(video)}}
        assert f"{file} has changed since" in report(small.verify())
        shutil.rmtree(small.tree.flow / "u" / video.name)
        shutil.rmtree(small.tree.flow / "v" / video.name)
        assert found(small.verify()) == {"flow_missing": {key_of(video)}}

    @pytest.mark.parametrize("format", ["jpeg", "zip"])
    def test_the_command_that_it_shows_makes_what_is_missing(
        self, format: str, small: Small, call: Callable[..., int]
    ) -> None:
        """With the settings of the flow that is there, or it would be refused."""
        shutil.rmtree(small.tree.flow)
        settings = FlowSettings("dis", {"finest_scale": 0, "preset": "fast"}, 32, bound=15.0)
        files = [on_disk(video) for video in small.videos]
        extract_flow(files[1:], small.tree.flow, settings, 1, format=format)
        verification = small.verify()
        assert found(verification)["flow_missing"] == {key_of(small.videos[0])}
        line = next(line for line in report(verification).splitlines() if "src.extract" in line)
        command = line.partition("src.extract_flow ")[2].partition(", or train")[0]
        assert call(extract_flow_command.main, *shlex.split(command), "workers=1") == 0
        assert "flow_missing" not in found(small.verify())

    def test_an_archive_of_others_is_downloaded_again(self, small: Small) -> None:
        archive = small.tree.root / "flow.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in sorted(small.tree.flow.rglob("*.jpg")):
                if file.parent.name != small.videos[0].name:
                    zipped.write(file, file.relative_to(small.tree.flow))
        text = report(small.verify(flow=str(archive)))
        assert f"hint: download {archive} again, or train without" in text
        assert "extract_flow" not in text

    def test_of_a_single_frame_no_flow_is_asked_for(self, small: Small) -> None:
        video = small.videos[0]
        small.tree.write_clip(on_disk(video), small_clip(small.tree.root / "parts", 1))
        for component in "uv":
            shutil.rmtree(small.tree.flow / component / video.name)
        verification = small.verify()
        assert found(verification) == {"flow_single": {key_of(video)}}
        assert verification.failed
        assert "extract_flow" not in report(verification)
        shutil.rmtree(small.tree.flow)
        verification = small.verify()
        assert found(verification) == {"rgb_single": {key_of(video)}}
        assert not verification.failed


MISPLACED: dict[str, Callable[[Path], Path]] = {
    "a class folder of another case": lambda file: file.parent.with_name("Wave") / file.name,
    "no class folder": lambda file: file.parents[1] / file.name,
    "another ending": lambda file: file.with_suffix(".mp4"),
    "a folder between": lambda file: file.parents[1] / "hmdb51_org" / "wave" / file.name,
}


class TestMisplaced:
    @pytest.mark.parametrize("kind", MISPLACED)
    def test_is_one_finding_and_its_script_mends_it(self, kind: str, small: Small) -> None:
        videos = [video for video in small.videos if video.path.parent.name == "wave"][:6]
        for video in videos:
            target = MISPLACED[kind](video.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            video.path.rename(target)
        verification = small.verify()
        assert found(verification) == {"rgb_misplaced": {key_of(video) for video in videos}}
        assert verification.extra["rgb"] == []
        write_report(verification)
        script = small.tree.root / MOVES
        assert f"sh {script} moves them there" in report(verification)
        subprocess.run(["sh", str(script)], check=True)
        again = small.verify()
        assert found(again) == {}
        write_report(again)
        assert not script.exists()

    def test_what_is_there_is_not_written_over(self, small: Small) -> None:
        video = small.videos[0]
        flat = video.path.parents[1] / video.path.name
        video.path.rename(flat)
        write_report(small.verify())
        video.path.write_bytes(b"another download")
        subprocess.run(["sh", str(small.tree.root / MOVES)], check=False)
        assert video.path.read_bytes() == b"another download"
        assert flat.is_file()


class TestCache:
    def test_a_changed_file_is_looked_at_again(self, small: Small) -> None:
        assert small.verify().cached == 0
        assert small.verify().checked == 0
        small.tree.write_clip(small.videos[3].path, b"")
        again = small.verify()
        assert found(again) == {"rgb_broken": {key_of(small.videos[3])}}
        assert again.checked == 1
        assert small.verify(recheck=True).cached == 0

    def test_a_line_that_was_cut_off_costs_one_look(self, small: Small) -> None:
        small.verify()
        file = small.tree.root / "manifest.jsonl"
        file.write_bytes(file.read_bytes()[:-20])
        assert small.verify().checked == 1
        assert small.verify().checked == 0

    def test_checks_of_other_places_are_dropped(self, small: Small) -> None:
        small.verify()
        file = small.tree.root / "manifest.jsonl"
        lines = len(file.read_text().splitlines())
        small.verify(flow=None)
        assert len(file.read_text().splitlines()) == lines // 2 + 1


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_it_goes_on(small: Small, stop: signal.Signals, tmp_path: Path) -> None:
    """The second run takes what the first has found, and no worker outlives the first."""
    program = (
        "import signal\n"
        "from functools import partial\n"
        "from tests.data.verification.damaged import read_small, slow\n"
        "from src.data.verification import verify as module\n"
        "from src.data.verification.verify import verify\n"
        "if __name__ == '__main__':\n"
        # a shell that runs the tests in the background has it ignored
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    module.in_parallel = slow\n"
        f"    root = {str(small.tree.root)!r}\n"
        "    verify(partial(read_small, root=root), 'videos', root + '/tvl1_flow', 10,"
        " root + '/manifest.jsonl', workers=2)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, start_new_session=True
    )
    manifest = small.tree.root / "manifest.jsonl"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (
        not manifest.is_file() or manifest.stat().st_size < 1500
    ):
        time.sleep(0.02)
    os.kill(process.pid, stop)
    process.communicate(timeout=10)
    assert process.returncode != 0
    deadline = time.monotonic() + 5
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(process.pid)
    again = small.verify()
    assert 3 <= again.cached < again.checked
    assert found(again) == {}


def _alive(group: int) -> bool:
    """Whether a group still has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class TestInParallel:
    def test_a_crash_and_a_hang_end_nothing_but_themselves(self) -> None:
        jobs = [*range(20), "crash", *range(20, 40), "hang", "raise", *range(40, 60)]
        results = dict(in_parallel(crash_hang_or_double, jobs, 2, timeout=5))
        assert {job for job, result in results.items() if isinstance(result, WorkerCrashed)} == {
            "crash",
            "hang",
        }
        assert isinstance(results["raise"], ValueError)
        assert all(results[number] == 2 * number for number in range(60))

    def test_a_crash_is_reported_with_its_video(
        self, small: Small, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("src.data.verification.verify.VideoChecker", CrashingChecker)
        verification = small.verify()
        assert found(verification) == {"rgb_crash": {key_of(small.videos[5])}}
        assert verification.failed
        assert str(small.videos[5].path) in report(verification)
        monkeypatch.undo()
        assert found(small.verify()) == {}  # it is not kept


class TestLists:
    def lists(self, train: list[str], test: list[str]) -> Lists:
        part = [
            tuple(
                Video(name, Path("videos", "wave", f"{name}.avi"), 0, group_of(name))
                for name in names
            )
            for names in (train, test)
        ]
        return read_lists(lambda split: Split(("wave",), *part))

    def test_a_group_in_train_and_test(self) -> None:
        leaks = self.lists(["v_Wave_g01_c01", "v_Wave_g02_c01"], ["v_Wave_g01_c02"]).leaks()
        assert leaks == [f"split {n}: v_Wave_g01 of class wave" for n in (1, 2, 3)]
        film = "A_film_wave_{}_cm_np1_fr_{}_{}"
        clips = [film.format("f", "med", 0), film.format("u", "goo", 12)]
        assert len(self.lists(clips[:1], clips[1:]).leaks()) == 3
        assert self.lists(clips, ["Another_film_wave_f_cm_np1_fr_med_0"]).leaks() == []
        assert len(self.lists(["plain"], ["plain"]).leaks()) == 3

    def test_a_split_that_cannot_be_read_is_no_absent_one(self, tmp_path: Path) -> None:
        def dataset(split: int) -> Split:
            if split == 2:
                raise UserError("trainlist02.txt is a page of a web server")
            return read_small(str(tmp_path), split)

        lists = read_lists(dataset)
        assert list(lists.splits) == [1]
        assert lists.unreadable == ["trainlist02.txt is a page of a web server"]

    @needs_lists
    def test_official_lists_keep_groups_together(self) -> None:
        for read, name in ((read_hmdb51, "hmdb51"), (read_ucf101, "ucf101")):
            lists = read_lists(partial(read, root=str(OFFICIAL), lists=f"{name}_splits"))
            assert lists.leaks() == []
            assert len(lists.unused) == {"hmdb51": 395, "ucf101": 0}[name]
            assert len(lists.videos) == {"hmdb51": 6766 - 395, "ucf101": 13320}[name]


@pytest.mark.slow
@needs_lists
@pytest.mark.parametrize(
    ("name", "classes"),
    [("hmdb51", ("kick_ball", "clap")), ("ucf101", ("HandstandPushups", "Archery"))],
)
def test_official_names(
    name: str,
    classes: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command on all of the lists, and the videos of two classes."""
    lists = tmp_path / "splits"
    lists.mkdir()
    for file in (OFFICIAL / f"{name}_splits").glob("*.txt"):
        lines = file.read_text().splitlines()
        if name == "ucf101" and "list" in file.name:
            lines = [line for line in lines if line.split("/")[0] in classes]
        if name == "ucf101" or file.name.startswith(tuple(f"{c}_test" for c in classes)):
            (lists / file.name).write_text("\n".join(lines) + "\n")
    read: Callable[..., Split] = {"hmdb51": read_hmdb51, "ucf101": read_ucf101}[name]
    listed = read_lists(partial(read, root=str(tmp_path), lists="splits", any_size=True))
    videos, unused = listed.videos, sorted(listed.unused)[:2]
    assert len(unused) == (2 if name == "hmdb51" else 0)
    tree = made_up(tmp_path)
    fill(tree, videos)
    for other in unused:  # they belong to the dataset
        tree.write_clip(videos[0].path.with_name(f"{other}.avi"))
        tree.write_flow(other, FRAMES - 1)
    planted = plant(tree, videos)
    run_command = ["verify_data", f"data={name}", f"data.dataset.root={tmp_path}", "workers=2"]
    run_command += ["data.dataset.any_size=true"]
    monkeypatch.setattr(sys, "argv", [*run_command, f"data.videos.cache_dir={tmp_path / 'index'}"])
    with pytest.raises(SystemExit) as stop:
        verify_data.main()
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    whole = (tmp_path / "verify_report.txt").read_text()
    for code, keys in planted.items():
        assert f" {code}: " in printed
        for key in keys:
            assert f"  {key}" in whole
    assert f"{len(videos)} videos in the lists of split 1 (" in printed
    assert "note extra" not in printed
    assert "note leak" not in printed
    assert f"input={tmp_path / 'videos'} output={tmp_path / 'tvl1_flow'}" in printed
    assert key_of(videos[0]) in (tmp_path / "manifest.jsonl").read_text()
