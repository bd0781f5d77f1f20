import numpy as np
import pytest

from src.flow.algorithm import quantize
from tests.builders import dequantize


def test_released_formula() -> None:
    flow = np.array([-20.0, -10.0, 10.0, 20.0], dtype=np.float32)
    assert quantize(flow).tolist() == [0, 64, 191, 255]  # round(255 (v + 20) / 40)


def test_no_motion_is_128() -> None:
    # What normalization subtracts: 127.5 has to round up.
    assert quantize(np.zeros(1, dtype=np.float32)).tolist() == [128]


def test_clips_instead_of_wrapping() -> None:
    flow = np.array([-1e6, -20.1, 20.1, 1e6], dtype=np.float32)
    assert quantize(flow).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("bound", [20.0, 5.0])
def test_round_trip_within_half_a_step(bound: float) -> None:
    flow = np.linspace(-bound, bound, 1001, dtype=np.float32)
    error = np.abs(dequantize(quantize(flow, bound), bound) - flow)
    assert error.max() <= bound / 255 * 1.001
    assert error.max() > bound / 255 / 2  # the step is that of 8 bits, not a finer one


def test_mirrored_u_is_its_negative() -> None:
    flow = np.linspace(-20, 20, 1001, dtype=np.float32)
    assert np.abs(dequantize(255 - quantize(flow)) - dequantize(quantize(-flow))).max() < 0.16
