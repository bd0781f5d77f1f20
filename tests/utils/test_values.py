"""What values of a config have to be, and how the line reads that refuses one."""

import math

import pytest
from omegaconf import OmegaConf

from src.utils.errors import UserError
from src.utils.values import NAMES, NULL, PATH, SWITCH, Need, check_values, integer, number, one_of


@pytest.mark.parametrize(
    ("need", "right", "wrong"),
    [
        (integer(0, 3), [0, 3], [-1, 4, 1.0, True, "1", None, [1]]),
        (number("minutes", lambda v: v >= 0) | NULL, [0, 0.5, None], [-1, math.nan, math.inf, "1"]),
        (one_of("same", "force"), ["same"], ["other", None, ["same"]]),
        (SWITCH, [True, False], [0, None, "true"]),
        (PATH, ["a", "5"], ["", " ", 5, None, ["a"]]),
        (NAMES, ["a", ["a", "b"], OmegaConf.create(["a"])], [5, [5], None, OmegaConf.create([5])]),
    ],
)
def test_kinds(need: Need, right: list[object], wrong: list[object]) -> None:
    assert [one for one in right if not need.fits(one)] == []
    assert [one for one in wrong if need.fits(one)] == []


def test_the_line() -> None:
    needs = {"absent": PATH, "missing": PATH, "here": PATH, "flag": SWITCH | NULL}
    config = OmegaConf.create({"missing": "???", "here": 5, "flag": None})
    with pytest.raises(UserError) as refused:
        check_values(config, needs, "paths.")
    assert str(refused.value) == "paths.here=5: needs a path: write 'paths.here=\"5\"'"
    with pytest.raises(UserError, match=r"^here=null: needs a path$"):
        check_values({"here": None}, needs)
    check_values({"here": "x", "flag": True}, needs)
