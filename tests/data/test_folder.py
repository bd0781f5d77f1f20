"""Anybody's own videos: which they are, and how they are divided into training and test."""

import csv
import os
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from src import evaluate, extract_flow, train, verify_data
from src.data import folder
from src.data.folder import divide, fingerprint_of, read_folder
from src.data.videos import Video
from src.reporting.collect import collect
from src.training.pipeline import run_experiment
from src.utils.errors import UserError
from tests.builders import write_video
from tests.conftest import TINY, compose_config
from tests.data.test_splits import touch

GROUP = r"_(g\d+)_"


def tree(root: Path, groups: int = 10, clips: int = 3) -> list[str]:
    """Videos of three classes whose groups, such as persons, are in several classes at once."""
    paths = [
        f"{name}/{name}_g{group:02d}_c{clip}.avi"
        for number, name in enumerate(("jump", "run", "walk"))
        for group in range(number, groups)
        for clip in range(1 + (group + number) % clips)
    ]
    touch(root, paths)
    return paths


def paths_of(root: Path, videos: Iterable[Video]) -> set[str]:
    return {video.path.relative_to(root).as_posix() for video in videos}


def groups_of(videos: Iterable[Video]) -> set[str]:
    return {video.name.split("_")[1] for video in videos}


def write_lists(file: Path, rows: Sequence[Sequence[str]], header: str) -> str:
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([header.split(","), *rows])
    return str(file)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("share", [0.2, 0.3])
def test_no_group_is_divided_and_no_test_overlaps(share: float, seed: int, tmp_path: Path) -> None:
    paths = set(tree(tmp_path))
    tested: set[str] = set()
    for number in range(1, int(1 / share) + 1):
        split = read_folder(str(tmp_path), number, None, GROUP, share, seed)
        assert split.classes == ("jump", "run", "walk")
        train, test = paths_of(tmp_path, split.train), paths_of(tmp_path, split.test)
        assert train | test == paths
        assert not train & test
        assert not groups_of(split.train) & groups_of(split.test)
        assert not tested & test
        assert {video.label for video in split.train} == {0, 1, 2}
        assert {video.label for video in split.test} == {0, 1, 2}
        assert abs(len(test) / len(paths) - share) < 0.1
        tested |= test
    assert (tested == paths) == (share == 0.2)


def test_classes_are_divided_in_equal_shares(tmp_path: Path) -> None:
    touch(tmp_path, [f"a/a{i}.mp4" for i in range(50)] + [f"b/b{i}.mp4" for i in range(10)])
    for number in range(1, 6):
        split = read_folder(str(tmp_path), number)
        assert [sum(video.label == label for video in split.test) for label in (0, 1)] == [10, 2]


def test_small_classes_are_tested_in_the_first_split(tmp_path: Path) -> None:
    """One video is trained on, of two or three one is tested."""
    touch(tmp_path, [f"{name}/{name}{i}.mp4" for name in "abcd" for i in range("abcd".index(name))])
    touch(tmp_path, [f"e/e{i}.mp4" for i in range(9)])
    split = read_folder(str(tmp_path), 1)
    assert split.classes == ("b", "c", "d", "e")
    assert {video.label for video in split.train} == {0, 1, 2, 3}
    assert {video.label for video in split.test} == {1, 2, 3}


def test_splits_depend_on_names_and_seed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    paths = tree(one)
    touch(two, sorted(paths, reverse=True))
    plain = read_folder(str(one), 1, None, GROUP)

    def shuffled(folder: Path, **_: object) -> list[tuple[str, list[str], list[str]]]:
        found = [(parent, folders, files) for parent, folders, files in walk(folder)]
        for _parent, _folders, files in found:
            random.Random(5).shuffle(files)
        return found[::-1]

    walk = os.walk
    monkeypatch.setattr(os, "walk", shuffled)
    again = read_folder(str(two), 1, None, GROUP)
    for part in ("train", "test"):
        names = [[video.name for video in getattr(split, part)] for split in (plain, again)]
        assert names[0] == names[1]
    assert fingerprint_of(str(one), None, GROUP, 0.2, 0) == fingerprint_of(
        str(two), None, GROUP, 0.2, 0
    )
    assert read_folder(str(one), 1, None, GROUP, seed=1).test != plain.test


def test_lists(tmp_path: Path) -> None:
    """Paths in any order and place, groups from a column or from the path, or the parts given."""
    rows = [[f"day{i % 2}/clip{i}.mp4", "ab"[i % 2], f"person {i // 4}"] for i in range(20)]
    lists = write_lists(tmp_path / "lists.csv", rows, "path,class,group")
    turned = write_lists(tmp_path / "turned.csv", rows[::-1], "path,class,group")
    group_of = {Path(path).stem: group for path, _, group in rows}
    split = read_folder(str(tmp_path), 2, lists)
    assert split == read_folder(str(tmp_path), 2, turned)
    assert split.classes == ("a", "b")
    assert len(split.test) == 4
    assert not {group_of[v.name] for v in split.train} & {group_of[v.name] for v in split.test}

    by_path = read_folder(str(tmp_path), 1, lists, r"clip(\d).?\.")  # by the tens
    tens = {video.name[4] for video in by_path.test}
    assert not tens & {video.name[4] for video in by_path.train}

    given = [[path, label, "test" if i < 6 else "train"] for i, (path, label, _) in enumerate(rows)]
    lists = write_lists(tmp_path / "given.csv", given, "path,class,split")
    split = read_folder(str(tmp_path), 1, lists)
    assert paths_of(tmp_path, split.test) == {path for path, _, part in given if part == "test"}
    with pytest.raises(UserError, match=r"data.split=2 does not exist: .*given.csv has split 1$"):
        read_folder(str(tmp_path), 2, lists)


def test_a_list_with_the_split_that_tests_each_video(tmp_path: Path) -> None:
    """All others train; a video of train is never tested."""
    rows = [[f"{name}{n}.mp4", name, f"{name}{n}", str(n)] for name in "ab" for n in (1, 2, 3)]
    rows += [["a0.mp4", "a", "a0", "train"]]
    lists = write_lists(tmp_path / "lists.csv", rows, "path,class,group,split")
    for number in (1, 2, 3):
        split = read_folder(str(tmp_path), number, lists)
        tested = {f"{name}{number}.mp4" for name in "ab"}
        assert paths_of(tmp_path, split.test) == tested
        assert paths_of(tmp_path, split.train) == {row[0] for row in rows} - tested
    with pytest.raises(UserError, match="split 1 to 3"):
        read_folder(str(tmp_path), 4, lists)


def test_an_expression_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PATIENCE", 0.1)
    touch(
        tmp_path, [f"{name}/{'a' * 60}{name}{number}.mp4" for name in "ab" for number in range(3)]
    )
    with pytest.raises(UserError, match=r"group=\(a\|aa\)\+\$ comes to no end in a/a"):
        read_folder(str(tmp_path), 1, None, "(a|aa)+$")


def test_changed_videos_are_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    known = fingerprint_of(str(tmp_path), None, GROUP, 0.2, 0)
    read = read_folder(str(tmp_path), 1, None, GROUP, fingerprint=known)
    assert read == read_folder(str(tmp_path), 1, None, GROUP)
    with pytest.raises(UserError, match=rf"not {known}.*fingerprint=null"):
        read_folder(str(tmp_path), 1, None, GROUP, seed=1, fingerprint=known)
    touch(tmp_path, ["run/new_g01_c9.avi"])
    with pytest.raises(UserError, match="training videos may be among the test videos"):
        read_folder(str(tmp_path), 1, None, GROUP, fingerprint=known)


def test_flow_hidden_files_and_other_folders_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, ["a/1.mp4", "a/day 1/2.MP4", "b/3.avi", "b/4.avi", "b/.5.avi", "b/note.txt"])
    touch(tmp_path, ["flow/flow.json", "flow/u/1/x.mp4", "empty/readme.txt", ".index/x.mp4"])
    entries = divide(str(tmp_path), None, None, 0.5, 0).entries
    assert [(e.path, e.label) for e in entries] == [
        ("a/1.mp4", "a"),
        ("a/day 1/2.MP4", "a"),
        ("b/3.avi", "b"),
        ("b/4.avi", "b"),
    ]


@pytest.mark.parametrize(
    ("videos", "arguments", "told"),
    [
        ([], {}, "no video in data.dataset.root"),
        (["a/1.mp4", "a/2.mp4"], {}, "one class only, a: data.dataset.root is the folder above"),
        (["a/1.mp4", "2.mp4"], {}, r"2.mp4 is in no folder of a class: move it"),
        (["a/caf\udce9.mp4", "b/1.mp4"], {}, r"caf\\udce9.mp4 has a name that is not in UTF-8"),
        (["a\udce9/1.mp4", "b/2.mp4"], {}, "not in UTF-8, as it is written to files: rename"),
        (["a/1.mp4", "b/1.avi"], {}, "share the flow folder 1: rename one .* mv "),
        (["label/1.mp4", "b/2.mp4"], {}, "class label, as a column of scores.csv"),
        (["a/1.mp4", "b/2.mp4"], {}, "no test video: give another data.dataset.test_share"),
        (["a/1.mp4", "b/2.mp4"], {"split": 6}, "split=6 does not exist: .* split 1"),
        (["a/1.mp4", "b/2.mp4"], {"test_share": 1.0}, "test_share=1.0: needs a share"),
        (["a/1.mp4", "b/2.mp4"], {"seed": -1}, "seed=-1"),
        (["a/1.mp4", "b/2.mp4"], {"group": "("}, "no regular expression"),
        (["a/1.mp4", "b/2.mp4"], {"group": "1"}, "finds nothing in b/2.mp4"),
    ],
)
def test_what_is_refused(
    videos: list[str], arguments: dict[str, int | float | str], told: str, tmp_path: Path
) -> None:
    touch(tmp_path, videos)
    with pytest.raises(UserError, match=told):
        read_folder(str(tmp_path), **{"split": 1} | arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "rows", "told"),
    [
        ("file,label", [["1.mp4", "a"]], "first line is 'file,label'; it names the columns"),
        ("path,class", [], "names no videos"),
        ("path,class", [["../1.mp4", "a"]], "line 2: '../1.mp4' is no path below"),
        ("path,class", [["1.mp4", "a"], ["/2.mp4", "b"]], "line 3: '/2.mp4' is no path below"),
        ("path,class", [["1.mp4", ""]], "line 2: no class"),
        ("path,class,split", [["1.mp4", "a", "val"]], "number of the split that tests it, not val"),
        ("path,class,split", [["1.mp4", "a", "0"]], "the split that tests it, not 0"),
        (
            "path,class,split",
            [["1.mp4", "a", "train"], ["2.mp4", "b", "test"]],
            "no training video of class b: change ",
        ),
        ("path,class,split", [["1.mp4", "a", "train"], ["2.mp4", "b", "train"]], "no test video"),
        (
            "path,class,split,group",
            [["1.mp4", "a", "train", "x"], ["2.mp4", "b", "test", "x"]],
            "group x in split train and test: put it in one",
        ),
    ],
)
def test_lists_that_are_refused(
    header: str, rows: list[list[str]], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        read_folder(str(tmp_path), 1, write_lists(tmp_path / "lists.csv", rows, header))
    with pytest.raises(UserError, match=r"gone\.csv does not exist"):
        read_folder(str(tmp_path), 1, "gone.csv")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving noise in three classes: left, right, still."""
    root = tmp_path_factory.mktemp("my videos")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name, speed in (("left", -2), ("right", 2), ("still", 0)):
        for number in range(4):
            frames = [np.roll(noise, number + speed * time, axis=1) for time in range(14)]
            write_video(root / name / f"{name} {number}.mp4", np.stack(frames))
    return root


def overrides(root: Path, output: Path) -> list[str]:
    small = [one for one in TINY if "num_t" not in one]  # two_movers' own
    return [
        "experiment=two_stream_folder",
        *small,
        f"data.dataset.root={root}",
        f"paths.output_dir={output}",
        f"paths.data_dir={output}",
        "model/backbone=narrow26",
        "data.short_side=64",
        "data.crop_size=56",
        "data.crop.size=56",
        "stages.motion.data.crop.sides=[64,56]",
        "data.test.frames=3",
    ]


@pytest.mark.slow
def test_from_a_folder_to_a_tested_checkpoint(
    root: Path, tmp_path: Path, call: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    """The README's commands: flow, a look at the data, training, and testing once more."""
    arguments = ["flow=dis", "flow.short_side=64", "workers=1"]
    assert call(extract_flow.main, f"input={root}", f"output={root}/flow", *arguments) == 0
    place = f"data.dataset.root={root}"
    index = f"paths.data_dir={tmp_path}"
    assert call(verify_data.main, "data=folder", place, "workers=1", index) == 0
    told = capfd.readouterr().out
    assert (
        "12 videos in the lists of split 1 (9 + 3), 2 (9 + 3), 3 (9 + 3), to train and to test on"
        in told
    )
    assert "nothing that would stop training" in told
    assert "note extra" not in told

    cfg = compose_config("train", *overrides(root, tmp_path))
    run_experiment(cfg)
    run_dir = tmp_path / "two_stream_folder" / "split1_seed0"
    checkpoint = run_dir / "motion" / "last.ckpt"
    described = torch.load(checkpoint, weights_only=True)["experiment"]
    assert described["config"]["data"]["num_classes"] == 3
    assert described["class_names"] == ["left", "right", "still"]
    with (run_dir / "motion" / "scores.csv").open() as file:
        assert file.readline().strip() == "video,label,left,right,still"
    [dataset] = {run.dataset for run in collect([str(tmp_path)])[0]}
    assert dataset.startswith(f"{root.name} 12-")

    on_cpu = ["trainer.accelerator=cpu", "+data.loader.num_workers=0"]
    capfd.readouterr()
    assert call(evaluate.main, f"ckpt_path={checkpoint}", *on_cpu) == 0
    assert "motion" in capfd.readouterr().out
    changed = "+data.dataset.seed=1"
    assert call(evaluate.main, f"ckpt_path={checkpoint}", *on_cpu, changed) == 1
    assert "training videos may be among the test videos" in capfd.readouterr().err


@pytest.mark.slow
def test_flow_on_the_fly(root: Path, tmp_path: Path) -> None:
    on_the_fly = [
        "data.flow=on_the_fly",
        "data.flow_settings.short_side=64",
        "data.videos.manifest=null",
    ]
    cfg = compose_config("train", *overrides(root, tmp_path), *on_the_fly, "run_stages=motion")
    run_experiment(cfg)
    assert (tmp_path / "two_stream_folder" / "split1_seed0" / "motion" / "stage.json").is_file()


@pytest.mark.slow
def test_a_folder_that_is_not_there_is_one_line(
    tmp_path: Path, call: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(train.main, "experiment=st_resnet_folder") == 1
    assert "error: data.dataset.root is not given: add data" in capfd.readouterr().err
    assert call(train.main, "experiment=st_resnet_folder", f"data.dataset.root={tmp_path}/no") == 1
    error = capfd.readouterr().err
    assert error.startswith(f"error: data.dataset.root={tmp_path}/no does not exist")
    assert error.count("\n") == 1
    assert call(train.main, "experiment=st_resnet_folder", "--cfg", "job") == 0
