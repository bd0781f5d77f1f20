"""The official lists of HMDB51 and UCF101, and what small, wrong trees are answered with."""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from src.data.splits import read_hmdb51, read_ucf101
from src.data.videos import Split, Video
from src.utils.errors import UserError

LISTS = Path(__file__).resolve().parents[3] / "shared" / "data"
HMDB51_LISTS, UCF101_LISTS = LISTS / "hmdb51_splits", LISTS / "ucf101_splits"
needs_lists = pytest.mark.skipif(
    not (HMDB51_LISTS.is_dir() and UCF101_LISTS.is_dir()), reason="no official lists here"
)

UCF101_COUNTS = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}


def touch(root: Path, videos: Iterable[str]) -> None:
    """Make empty files `<class>/<file>` under root."""
    for video in videos:
        (root / video).parent.mkdir(parents=True, exist_ok=True)
        (root / video).touch()


@pytest.fixture(scope="module")
def hmdb51(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Split]:
    """The three splits of all of HMDB51, as empty files."""
    root = tmp_path_factory.mktemp("hmdb51")
    for file in HMDB51_LISTS.glob("*_test_split1.txt"):  # each split lists every video
        name = file.name.removesuffix("_test_split1.txt")
        lines = file.read_text().splitlines()
        touch(root / "videos", [f"{name}/{line.split('.avi')[0]}.avi" for line in lines])
    return {n: read_hmdb51(str(root), n, lists=str(HMDB51_LISTS)) for n in (1, 2, 3)}


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Split]:
    """The three splits of all of UCF101, as empty files."""
    root = tmp_path_factory.mktemp("ucf101")
    for part in ("trainlist01.txt", "testlist01.txt"):
        lines = (UCF101_LISTS / part).read_text().splitlines()
        touch(root / "videos", [line.split()[0] for line in lines])
    return {n: read_ucf101(str(root), n, lists=str(UCF101_LISTS)) for n in (1, 2, 3)}


@needs_lists
@pytest.mark.parametrize("number", [1, 2, 3])
class TestOfficialHMDB51:
    def test_classes_are_in_alphabetical_order(self, hmdb51: dict[int, Split], number: int) -> None:
        # Fails until `read_hmdb51` sorts by class: file names sort kick_ball before kick.
        classes = hmdb51[number].classes
        assert len(classes) == 51
        assert classes == tuple(sorted(classes))

    def test_videos_are_those_of_the_flags(self, hmdb51: dict[int, Split], number: int) -> None:
        split = hmdb51[number]
        assert (len(split.train), len(split.test)) == (3570, 1530)
        for flag, videos in ((1, split.train), (2, split.test)):
            by_class = defaultdict(set)
            for video in videos:
                by_class[split.classes[video.label]].add(f"{video.path.name} {flag} ")
                assert video.path.is_file()
            for name in split.classes:
                lines = (HMDB51_LISTS / f"{name}_test_split{number}.txt").read_text().split("\n")
                assert by_class[name] <= set(lines)
                assert len(by_class[name]) == (70 if flag == 1 else 30)

    def test_strange_names_survive(self, hmdb51: dict[int, Split], number: int) -> None:
        videos = [*hmdb51[number].train, *hmdb51[number].test]
        assert all(f"{video.name}.avi" == video.path.name for video in videos)
        for symbol in "#(&;![":
            assert any(symbol in video.name for video in videos), symbol


@needs_lists
@pytest.mark.parametrize("number", [1, 2, 3])
class TestOfficialUCF101:
    @pytest.mark.slow
    def test_counts_and_labels(self, ucf101: dict[int, Split], number: int) -> None:
        split = ucf101[number]
        assert (len(split.train), len(split.test)) == UCF101_COUNTS[number]
        official = (UCF101_LISTS / "classInd.txt").read_text().split()
        assert split.classes == tuple(official[1::2])
        for video in (*split.train, *split.test):
            assert split.classes[video.label] == video.path.parent.name

    def test_groups_do_not_leak(self, ucf101: dict[int, Split], number: int) -> None:
        def groups(videos: Iterable[Video]) -> set[str]:
            return {video.name.rsplit("_c", 1)[0] for video in videos}

        split = ucf101[number]
        assert not groups(split.train) & groups(split.test)


Reader = Callable[..., Split]


@pytest.fixture
def small_hmdb51(tmp_path: Path) -> Path:
    """Two classes with two videos each; run/b.avi is in neither list of split 1."""
    touch(tmp_path / "videos", ["jump/a.avi", "jump/b.avi", "run/a.avi", "run/b.avi"])
    lists = tmp_path / "splits"
    lists.mkdir()
    (lists / "run_test_split1.txt").write_text("a.avi 2 \nb.avi 0 \n")
    (lists / "jump_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \n\n")
    return tmp_path


@pytest.fixture
def small_ucf101(tmp_path: Path) -> Path:
    """Two classes, not in alphabetical order, with one video in each list."""
    touch(tmp_path / "videos", ["Run/v_Run_g01_c01.avi", "Jump/v_Jump_g02_c01.avi"])
    lists = tmp_path / "splits"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Run\n2 Jump\n")
    (lists / "trainlist01.txt").write_text("Run/v_Run_g01_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("Jump/v_Jump_g02_c01.avi\n")
    return tmp_path


def test_hmdb51_tree(small_hmdb51: Path) -> None:
    videos = small_hmdb51 / "videos"
    assert read_hmdb51(str(small_hmdb51), 1, any_size=True) == Split(
        classes=("jump", "run"),
        train=(Video("a", videos / "jump" / "a.avi", 0),),
        test=(Video("b", videos / "jump" / "b.avi", 0), Video("a", videos / "run" / "a.avi", 1)),
    )


def test_ucf101_tree(small_ucf101: Path) -> None:
    videos = small_ucf101 / "videos"
    assert read_ucf101(str(small_ucf101), 1, any_size=True) == Split(
        classes=("Run", "Jump"),
        train=(Video("v_Run_g01_c01", videos / "Run" / "v_Run_g01_c01.avi", 0),),
        test=(Video("v_Jump_g02_c01", videos / "Jump" / "v_Jump_g02_c01.avi", 1),),
    )


@pytest.mark.parametrize("read", [read_hmdb51, read_ucf101])
def test_missing_folders_are_named(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError) as error:
        read(str(tmp_path), 1)
    assert f"{tmp_path / 'splits'} missing" in str(error.value)
    assert f"{tmp_path / 'videos'} and" not in str(error.value)


@pytest.mark.parametrize("read", [read_hmdb51, read_ucf101])
def test_empty_list_folder(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "splits").mkdir()
    with pytest.raises(UserError, match=r"list.*expected"):
        read(str(tmp_path), 1)


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("read", [read_hmdb51, read_ucf101])
def test_no_such_split(read: Reader, number: int, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "splits").mkdir()
    with pytest.raises(UserError, match=rf"data.split={number}.*1, 2 and 3"):
        read(str(tmp_path), number)


def test_videos_need_not_be_there(small_hmdb51: Path) -> None:
    whole = read_hmdb51(str(small_hmdb51), 1, any_size=True)
    for video in (small_hmdb51 / "videos").rglob("*.avi"):
        video.unlink()
    assert read_hmdb51(str(small_hmdb51), 1, any_size=True) == whole


@pytest.mark.parametrize("line", ["a.avi 3", "a.avi x", "a.avi"])
def test_bad_flag(line: str, small_hmdb51: Path) -> None:
    (small_hmdb51 / "splits/run_test_split1.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=rf"run_test_split1\.txt.*{line}.*flag 0, 1 or 2"):
        read_hmdb51(str(small_hmdb51), 1, any_size=True)


@pytest.mark.parametrize(
    "line", ["Run/v_Run_g01_c01.avi 2", "Walk/v_Walk_g01_c01.avi 1", "Run/v_Run_g01_c01.avi one"]
)
def test_label_that_contradicts_class_list(line: str, small_ucf101: Path) -> None:
    (small_ucf101 / "splits/trainlist01.txt").write_text(f"{line}\n")
    with pytest.raises(UserError, match=rf"contradict classInd\.txt at {line.split()[0]}"):
        read_ucf101(str(small_ucf101), 1, any_size=True)


@pytest.mark.parametrize(
    "entry",
    [
        "../../secret.avi",
        "/etc/secret.avi",
        "Run/../../secret.avi",
        "Run/deep/secret.avi",
        "Run//etc/../secret.avi",
        "Run/..",
        "Run/a\0.avi",
        "secret.avi",
    ],
)
@pytest.mark.parametrize("part", ["trainlist01.txt", "testlist01.txt"])
def test_ucf101_entries_stay_below_the_videos(part: str, entry: str, small_ucf101: Path) -> None:
    (small_ucf101 / "splits" / "classInd.txt").write_text("1 Run\n2 Jump\n3 ..\n4 secret.avi\n")
    (small_ucf101 / "splits" / part).write_text(f"{entry}\n")
    with pytest.raises(UserError, match=r"no <class>/<file> below|contradict classInd"):
        read_ucf101(str(small_ucf101), 1, any_size=True)


@pytest.mark.parametrize("entry", ["../../secret.avi", "/etc/secret.avi", "..", "", "a\0.avi"])
def test_hmdb51_entries_stay_below_the_videos(entry: str, small_hmdb51: Path) -> None:
    (small_hmdb51 / "splits/run_test_split1.txt").write_text(f"{entry} 1\n")
    with pytest.raises(UserError, match="no <class>/<file> below"):
        read_hmdb51(str(small_hmdb51), 1, any_size=True)


def test_a_list_that_is_no_text(small_hmdb51: Path) -> None:
    (small_hmdb51 / "splits/run_test_split1.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"run_test_split1\.txt cannot be read"):
        read_hmdb51(str(small_hmdb51), 1, any_size=True)


@pytest.mark.parametrize(
    ("dataset", "read"), [("small_hmdb51", read_hmdb51), ("small_ucf101", read_ucf101)]
)
def test_a_list_with_a_byte_order_mark(
    dataset: str, read: Reader, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(dataset)
    plain = read(str(root), 1, any_size=True)
    for file in (root / "splits").iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read(str(root), 1, any_size=True) == plain


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("trainlist01.txt", "Run/v_Run_g01_c01.avi 1\n" * 2, "v_Run_g01_c01.avi is listed 2 times"),
        ("trainlist01.txt", "Jump/v_Jump_g02_c01.avi 2\n", "v_Jump_g02_c01.avi is listed 2 times"),
        ("testlist01.txt", "", r"\*list01.txt: no video to test on"),
    ],
)
def test_lists_that_cannot_be_meant(name: str, content: str, told: str, small_ucf101: Path) -> None:
    (small_ucf101 / "splits" / name).write_text(content)
    with pytest.raises(UserError, match=told):
        read_ucf101(str(small_ucf101), 1, any_size=True)


@pytest.mark.parametrize(
    ("dataset", "read", "told"),
    [
        ("small_hmdb51", read_hmdb51, "1 videos to train on and 2 to test on, not 3570 and 1530"),
        ("small_ucf101", read_ucf101, "1 videos to train on and 1 to test on, not 9537 and 3783"),
    ],
)
def test_other_sizes_than_the_official_ones_are_allowed_by_name(
    dataset: str, read: Reader, told: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(dataset)
    with pytest.raises(UserError, match=rf"{told}: .*data\.dataset\.any_size=true"):
        read(str(root), 1)


@pytest.mark.skipif(not UCF101_LISTS.is_dir(), reason="no official lists here")
def test_an_official_list_that_was_cut_short(tmp_path: Path) -> None:
    shutil.copytree(UCF101_LISTS, tmp_path / "splits")
    cut = tmp_path / "splits" / "trainlist02.txt"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:4686]))
    assert len(read_ucf101(str(tmp_path), 1).train) == 9537
    with pytest.raises(UserError, match="4686 videos to train on and 3734 to test on, not 9586"):
        read_ucf101(str(tmp_path), 2)
