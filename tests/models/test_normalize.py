"""Input as weights expect it: one number for all flow channels, or one for each."""

import pytest
import torch

from src.models.normalize import Normalize


def test_flow_channels_alike() -> None:
    normalize = Normalize(flow_mean=128.0, flow_std=2.0)
    flow = torch.randint(0, 256, (2, 4, 3, 5, 5), dtype=torch.uint8)
    assert torch.equal(normalize.flow(flow), (flow.float() - 128) / 2)
    assert normalize.describe()["flow_mean"] == 128.0
    assert not normalize.state_dict()


def test_a_number_for_each_flow_channel() -> None:
    means, deviations = [100.0, 110.0, 120.0, 130.0], [1.0, 2.0, 4.0, 8.0]
    normalize = Normalize(flow_mean=means, flow_std=deviations)
    flow = torch.randint(0, 256, (2, 4, 3, 5, 5), dtype=torch.uint8)
    for channel, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        expected = (flow[:, channel].float() - mean) / deviation
        assert torch.equal(normalize.flow(flow)[:, channel], expected)
    assert normalize.describe()["flow_mean"] == means
    assert normalize.describe()["flow_std"] == deviations
    assert not normalize.state_dict()
    assert torch.equal(normalize.restore("flow", normalize.flow(flow)), flow)
    assert normalize.double().flow(flow).dtype == torch.float64


def test_number_of_channels_must_fit() -> None:
    normalize = Normalize(flow_mean=[128.0] * 6)
    with pytest.raises(RuntimeError):
        normalize.flow(torch.zeros(1, 4, 1, 2, 2, dtype=torch.uint8))


def test_frames_come_in_the_layout_of_the_first_convolution() -> None:
    """(B, C, T, H, W) to (B * T, C, H, W), channels last: nothing is copied on the way."""
    normalize = Normalize()
    for clip in (
        normalize.rgb(torch.zeros(2, 3, 5, 8, 8, dtype=torch.uint8)),
        normalize.flow(torch.zeros(2, 20, 5, 8, 8, dtype=torch.uint8)),
    ):
        frames = clip.transpose(1, 2).flatten(0, 1)
        assert frames.data_ptr() == clip.data_ptr()
        assert frames.is_contiguous(memory_format=torch.channels_last)
