from typing import Any

import numpy as np
import pytest

from src.flow.algorithm import Fields, prepare
from src.flow.algorithms import ALGORITHMS
from src.flow.settings import FlowSettings
from src.utils.errors import UserError
from tests.builders import moving_texture

# Without its weights, which are not part of the project, RAFT finds no motion.
PARAMETERS: dict[str, dict[str, Any]] = {
    "raft": {"model": "small", "weights": None, "iterations": 2}
}
FIND_MOTION = [name for name in ALGORITHMS if name not in PARAMETERS]


def flow_of(
    name: str, shift: tuple[float, float], parameters: dict[str, Any] | None = None
) -> Fields:
    algorithm = FlowSettings(name, parameters or {}).make()
    first, second = (
        prepare(image, 64, algorithm.color) for image in moving_texture(shift, frames=2)
    )
    return algorithm.fields(first[None], second[None])[0]


@pytest.mark.parametrize("name", FIND_MOTION)
@pytest.mark.parametrize("shift", [(2.0, 0.0), (-2.0, 0.0), (0.0, 1.5), (0.0, -1.5), (1.0, -2.0)])
def test_recovers_a_shift(name: str, shift: tuple[float, float]) -> None:
    field = flow_of(name, shift)
    assert field.shape == (64, 96, 2)
    inside = field[12:-12, 12:-12].reshape(-1, 2)  # what enters at the border has no past
    # Right is u > 0 and down is v > 0, in this order.
    np.testing.assert_allclose(np.median(inside, axis=0), shift, atol=0.25)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_keeps_nothing_between_calls(name: str) -> None:
    algorithm = FlowSettings(name, PARAMETERS.get(name, {})).make()
    frames = np.stack(
        [prepare(i, 64, algorithm.color) for i in moving_texture((2.0, 1.0), frames=3)]
    )
    alone = algorithm.fields(frames[:1], frames[1:2])
    algorithm.fields(frames[2:], frames[:1])
    np.testing.assert_array_equal(algorithm.fields(frames[:1], frames[1:2]), alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_pairs_do_not_depend_on_each_other(name: str) -> None:
    algorithm = FlowSettings(name, PARAMETERS.get(name, {})).make()
    frames = np.stack(
        [prepare(i, 64, algorithm.color) for i in moving_texture((2.0, 1.0), frames=3)]
    )
    together = algorithm.fields(frames[:-1], frames[1:])
    for index in range(2):
        alone = algorithm.fields(frames[index : index + 1], frames[index + 1 : index + 2])
        np.testing.assert_allclose(together[index], alone[0], atol=1e-4)


def test_parameters_reach_the_algorithm() -> None:
    coarse = flow_of("dis", (2.0, 1.0), {"finest_scale": 2})
    fine = flow_of("dis", (2.0, 1.0), {"finest_scale": 0})
    assert np.abs(coarse - fine).max() > 0.01


@pytest.mark.parametrize(
    ("name", "parameters", "named"),
    [
        ("tv_l1", {}, "tvl1, dis, tvl1_torch"),
        ("dis", {"preset": "best"}, "ultrafast, fast, medium"),
        ("dis", {"nscales": 3}, "nscales"),
        ("tvl1", {"no_such": 3}, "no_such"),
    ],
)
def test_wrong_settings_name_the_thing(name: str, parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        FlowSettings(name, parameters).make()


@pytest.mark.parametrize("name", ["dis", "tvl1_torch"])
def test_the_device_is_not_a_parameter(name: str) -> None:
    """Flow is the same on every device: what is beside it does not say on which it was made."""
    assert "device" not in FlowSettings(name).parameters
    assert FlowSettings(name).make(device="cpu").batch == 1
    with pytest.raises(UserError, match="unexpected keyword argument 'device'"):
        FlowSettings(name, {"device": "cpu"}).make()


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no flow on device warp9"):
        FlowSettings("tvl1_torch").make(device="warp9")
    FlowSettings("dis").make(device="warp9")  # which runs on the CPU anyway


def test_frames_are_prepared_at_their_short_side() -> None:
    algorithm = FlowSettings("dis").make()
    assert prepare(np.zeros((240, 320, 3), np.uint8), 256, algorithm.color).shape == (256, 341)
    assert prepare(np.zeros((320, 240, 3), np.uint8), 64, algorithm.color).shape == (85, 64)


def test_tvl1_forgets_the_size_of_the_image_before() -> None:
    algorithm = FlowSettings("tvl1", {"warps": 1, "outerIterations": 1}).make()
    frames = np.stack(
        [prepare(i, 128, algorithm.color) for i in moving_texture((6, 0), 2, (128, 128))]
    )
    alone = algorithm.fields(frames[:1], frames[1:])
    algorithm.fields(frames[:1, :24, :24], frames[1:, :24, :24])  # has a single scale
    np.testing.assert_array_equal(algorithm.fields(frames[:1], frames[1:]), alone)
