import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException

from src.data.datamodule import VideoDataModule
from src.data.splits import group_of, read_hmdb51, read_ucf101, with_validation
from src.data.videos import Split, Video
from src.experiment.build import build_datamodule, build_protocol
from src.experiment.config import stage_config
from src.utils.errors import UserError
from tests.builders import CLIPS
from tests.conftest import compose_config


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
    parts = with_validation(split, 0.2)
    assert (parts.classes, parts.test) == (split.classes, split.test)
    assert sorted(v.path for v in (*parts.train, *parts.val)) == sorted(v.path for v in split.train)
    assert Counter(video.label for video in parts.val) == {0: 8, 1: 8, 2: 8}
    for label in range(3):
        groups = [{v.group for v in part if v.label == label} for part in (parts.train, parts.val)]
        assert not groups[0] & groups[1]
    assert with_validation(split, 0.2) == parts
    chosen = [{v.group for v in parts.val if v.label == label} for label in range(3)]
    assert chosen[0] != chosen[1] or chosen[1] != chosen[2]  # drawn by class


def test_a_class_is_always_trained_on() -> None:
    parts = with_validation(split_of({"only": 5}), 0.5)
    assert parts.val == ()
    parts = with_validation(split_of({"a": 1, "b": 9}), 0.99)
    assert {video.label for video in parts.train} == {0, 1}


def test_videos_of_no_group_are_groups_of_their_own() -> None:
    train = tuple(Video(f"v{n}", Path(f"v{n}"), 0) for n in range(10))
    parts = with_validation(Split(("c",), train, ()), 0.3)
    assert (len(parts.train), len(parts.val)) == (7, 3)


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


def data_of(tiny: tuple[str, ...], *overrides: str) -> VideoDataModule:
    """Set up; 16 training and 8 test videos without a validation part."""
    plan = stage_config(compose_config("train", *tiny, *overrides), "appearance")
    data = build_datamodule(plan)
    data.prepare_data()
    data.setup()
    return data


def names(loader: Any) -> set[str]:
    return {name for batch in loader for name in batch["video"]}


@pytest.mark.slow
def test_three_parts_are_trained_validated_and_tested_on(tiny: tuple[str, ...]) -> None:
    plain, data = data_of(tiny), data_of(tiny, "data.val_fraction=0.5")
    train, val, test = (
        names(loader())
        for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader)
    )
    assert (len(train), len(val), len(test)) == (8, 8, 8)
    assert train | val == names(plain.train_dataloader())
    assert not train & val
    assert test == names(plain.test_dataloader()) == names(plain.val_dataloader())

    chosen = data_of(tiny, "data.val_fraction=0.5", "data.test.part=val")
    assert names(chosen.test_dataloader()) == names(chosen.val_dataloader()) == val
    assert chosen.test_video(min(val))["video"] == min(val)
    with pytest.raises(UserError, match="is not on the val list"):
        chosen.test_video(min(test))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ((), None),
        (("data.val_fraction=0.1",), None),
        (
            ("data.val_fraction=0.1", "data.test.part=val"),
            "; on the validation part (10 % of the training list)",
        ),
    ],
)
def test_the_protocol_tells_the_part(
    tiny: tuple[str, ...], overrides: tuple[str, ...], told: str | None
) -> None:
    plan = stage_config(compose_config("train", *tiny, *overrides), "appearance")
    assert build_protocol(plan).name.endswith(told or "mean of logits")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        *((f"data.val_fraction={share}", "needs a fraction") for share in ("0", "1", "-0.2", "x")),
        ("data.test.part=val", "there is no such part without data.val_fraction"),
        ("data.test.part=train", "needs test or val"),
    ],
)
def test_parts_that_are_none_are_refused(tiny: tuple[str, ...], override: str, told: str) -> None:
    plan = stage_config(compose_config("train", *tiny, override), "appearance")
    with pytest.raises(InstantiationException, match=f"{re.escape(override)}: {told}"):
        build_datamodule(plan)


def test_a_part_without_videos_is_refused(tiny: tuple[str, ...]) -> None:
    split, data = data_of(tiny).listed, data_of(tiny, "data.val_fraction=0.5")
    data.videos = Split((), (), ())
    data.dataset = lambda: replace(split, train=split.train[:8])  # one of each class
    with pytest.raises(UserError, match=r"data\.val_fraction=0\.5: leaves no video"):
        data.setup()


@pytest.mark.skipif(not (CLIPS.parent / "hmdb51_splits").is_dir(), reason="no official lists here")
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("read", [read_hmdb51, read_ucf101])
def test_official_lists_are_divided_by_film_and_scene(
    read: Callable[..., Split], number: int
) -> None:
    name = read.__name__.removeprefix("read_")
    split = read(root=str(CLIPS.parent), split=number, lists=f"{name}_splits")
    parts = with_validation(split, 0.1)
    videos = [{v.path for v in part} for part in (parts.train, parts.val, parts.test)]
    groups = [{(v.label, v.group) for v in part} for part in (parts.train, parts.val, parts.test)]
    for one, other in combinations(range(3), 2):
        assert not videos[one] & videos[other]
        assert not groups[one] & groups[other]
    assert parts.test == split.test
    assert 0.09 < len(parts.val) / len(split.train) < 0.2
    assert {video.label for video in parts.val} == set(range(len(split.classes)))
