from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import InstantiationException

from src.data.hold_out import hold_out
from src.data.splits import Split, Video, group_of, read_hmdb51, read_ucf101
from src.experiment.build import build_datamodule, build_protocol
from src.experiment.config import stage_config
from tests.conftest import compose_config
from tests.helpers import CLIPS


def split_of(groups: dict[str, int], classes: int = 2) -> Split:
    """As many training videos of each group in every class, and one test video of each."""
    names = [(f"g{group}_{n}", group) for group, count in groups.items() for n in range(count)]
    train = tuple(
        Video(f"{label}_{name}", Path(str(label), name), label, group)
        for label in range(classes)
        for name, group in names
    )
    test = tuple(Video(f"t{label}", Path(f"t{label}"), label) for label in range(classes))
    return Split(tuple(f"c{label}" for label in range(classes)), train, test)


def test_groups_stay_together_and_every_class_gives_its_share() -> None:
    split = split_of({f"{letter}": 4 for letter in "abcdefghij"}, classes=3)
    held = hold_out(split, 0.2)
    assert held.classes == split.classes
    assert sorted(v.path for v in (*held.train, *held.test)) == sorted(v.path for v in split.train)
    assert Counter(video.label for video in held.test) == {0: 8, 1: 8, 2: 8}
    for label in range(3):
        sides = [{v.group for v in part if v.label == label} for part in (held.train, held.test)]
        assert not sides[0] & sides[1]
    assert hold_out(split, 0.2) == held
    chosen = [{v.group for v in held.test if v.label == label} for label in range(3)]
    assert chosen[0] != chosen[1] or chosen[1] != chosen[2]  # drawn by class


def test_a_class_is_always_trained_on() -> None:
    held = hold_out(split_of({"only": 5}), 0.5)
    assert held.test == ()
    held = hold_out(split_of({"a": 1, "b": 9}), 0.99)
    assert {video.label for video in held.train} == {0, 1}


def test_videos_of_no_group_are_groups_of_their_own() -> None:
    train = tuple(Video(f"v{n}", Path(f"v{n}"), 0) for n in range(10))
    held = hold_out(Split(("c",), train, ()), 0.3)
    assert (len(held.train), len(held.test)) == (7, 3)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("v_ApplyEyeMakeup_g08_c01", "v_ApplyEyeMakeup_g08"),
        ("Brushing_my_Hair_brush_hair_u_nm_np1_ba_goo_2", "Brushing_my_Hair_brush_hair"),
        ("holiday", None),
    ],
)
def test_official_names_tell_the_group(name: str, group: str | None) -> None:
    assert group_of(name) == group


def test_the_test_list_is_left_alone_and_the_protocol_says_so(tiny: tuple[str, ...]) -> None:
    config = stage_config(compose_config("train", *tiny, "data.hold_out=0.5"), "appearance")
    data, whole = build_datamodule(config), build_datamodule(config | {"data": _without(config)})
    for one in (data, whole):
        one.prepare_data()
        one.setup()
    assert {v.name for v in data.videos.test} < {v.name for v in whole.videos.train}
    assert not {v.name for v in data.videos.test} & {v.name for v in data.videos.train}
    assert len(data.videos.train) == len(data.videos.test) == 8
    assert build_protocol(config).name.endswith("; on 50 % of the training list, held out")


def _without(config: dict) -> dict:
    return {**config["data"], "hold_out": None}


@pytest.mark.parametrize("share", ["0", "1", "-0.2", "much"])
def test_a_share_that_is_none_is_refused(tiny: tuple[str, ...], share: str) -> None:
    config = stage_config(compose_config("train", *tiny, f"data.hold_out={share}"), "appearance")
    refused = rf"data\.hold_out={share}: needs a share above 0"
    with pytest.raises(InstantiationException, match=refused):
        build_datamodule(config)


@pytest.mark.skipif(not (CLIPS.parent / "hmdb51_splits").is_dir(), reason="no official lists here")
@pytest.mark.parametrize("read", [read_hmdb51, read_ucf101])
def test_official_lists_are_divided_by_film_and_scene(read: Callable[..., Split]) -> None:
    name = read.__name__.removeprefix("read_")
    split = read(root=str(CLIPS.parent), split=1, lists=f"{name}_splits")
    held = hold_out(split, 0.2)
    sides = [{(v.label, v.group) for v in part} for part in (held.train, held.test)]
    assert not sides[0] & sides[1]
    assert not {v.path for v in split.test} & {v.path for v in (*held.train, *held.test)}
    assert 0.2 <= len(held.test) / len(split.train) < 0.3
    of_class = Counter(video.label for video in held.test)
    assert len(of_class) == len(split.classes)
