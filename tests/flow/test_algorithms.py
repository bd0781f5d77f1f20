from typing import Any

import numpy as np
import pytest

from src.errors import UserError
from src.flow.algorithms import ALGORITHMS, grey_at, make_algorithm
from src.flow.settings import FlowSettings
from tests.flow.textures import moving_texture


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("shift", [(2.0, 0.0), (-2.0, 0.0), (0.0, 1.5), (0.0, -1.5), (1.0, -2.0)])
def test_recovers_a_shift(name: str, shift: tuple[float, float]) -> None:
    first, second = (grey_at(image, 64) for image in moving_texture(shift, frames=2))
    field = make_algorithm(name, {})(first, second)
    assert field.shape == (64, 96, 2)
    inside = field[12:-12, 12:-12].reshape(-1, 2)  # what enters at the border has no past
    # Right is u > 0 and down is v > 0, in this order.
    np.testing.assert_allclose(np.median(inside, axis=0), shift, atol=0.25)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_keeps_nothing_between_calls(name: str) -> None:
    first, second, third = (grey_at(image, 64) for image in moving_texture((2.0, 1.0), frames=3))
    algorithm = make_algorithm(name, {})
    alone = algorithm(first, second)
    algorithm(third, first)
    np.testing.assert_array_equal(algorithm(first, second), alone)


def test_parameters_reach_the_algorithm() -> None:
    first, second = (grey_at(image, 64) for image in moving_texture((2.0, 1.0), frames=2))
    coarse = make_algorithm("dis", {"finest_scale": 2})(first, second)
    fine = make_algorithm("dis", {"finest_scale": 0})(first, second)
    assert np.abs(coarse - fine).max() > 0.01


@pytest.mark.parametrize(
    ("name", "parameters", "named"),
    [
        ("tv_l1", {}, "tvl1, dis, farneback"),
        ("dis", {"preset": "best"}, "ultrafast, fast, medium"),
        ("dis", {"nscales": 3}, "nscales"),
        ("tvl1", {"no_such": 3}, "no_such"),
        ("farneback", {"no_such": 3}, "no_such"),
    ],
)
def test_wrong_settings_name_the_thing(name: str, parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        FlowSettings(name, parameters).make()


def test_grey_has_the_short_side() -> None:
    assert grey_at(np.zeros((240, 320, 3), np.uint8), 256).shape == (256, 341)
    assert grey_at(np.zeros((320, 240, 3), np.uint8), 64).shape == (85, 64)
