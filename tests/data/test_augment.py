"""Colors of a clip change by one draw, whatever transform of torchvision is chosen; flow stays."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from src.data.transforms import ColorTransform, augment_colors, check_colors
from src.utils.errors import UserError

JITTER = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
COLORS: list[ColorTransform] = [
    JITTER,
    v2.Compose([JITTER, v2.RandomGrayscale(0.5)]),
    v2.RandomApply([v2.GaussianBlur(5)], p=0.5),
    v2.RandomPhotometricDistort(),
]


@pytest.fixture
def clip() -> Tensor:
    """A clip (3, T, H, W) of one picture."""
    picture = torch.randint(0, 256, (3, 1, 24, 32), dtype=torch.uint8)
    return picture.expand(3, 4, 24, 32).contiguous()


def changed(clip: Tensor, transform: ColorTransform, seed: int) -> Tensor:
    return augment_colors(clip, transform, np.random.default_rng(seed))


@pytest.mark.parametrize("transform", COLORS)
def test_frames_of_a_clip_change_alike(transform: ColorTransform, clip: Tensor) -> None:
    check_colors(transform)
    before = clip.clone()
    for seed in range(10):
        result = changed(clip, transform, seed)
        assert (result.dtype, result.shape) == (torch.uint8, clip.shape)
        assert (result == result[:, :1]).all()
    assert torch.equal(clip, before)


def test_channels_are_those_of_the_clip() -> None:
    red = torch.zeros((3, 2, 8, 8), dtype=torch.uint8)
    red[0] = 200
    darker = changed(red, v2.ColorJitter(brightness=(0.5, 0.5)), 0)
    assert (darker[0] == 100).all()
    assert (darker[1:] == 0).all()


@pytest.mark.parametrize("transform", COLORS)
def test_a_seed_is_a_clip(transform: ColorTransform, clip: Tensor) -> None:
    """And no other random numbers are drawn than those that follow from it."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seen = set()
    for seed in range(10):
        result = changed(clip, transform, seed)
        assert torch.equal(result, changed(clip, transform, seed))
        seen.add(result.numpy().tobytes())
    assert torch.equal(torch.rand(3), expected)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("transform", "name"),
    [
        (v2.RandomRotation(10), "RandomRotation"),
        (v2.RandomAffine(0), "RandomAffine"),
        (v2.RandomHorizontalFlip(), "RandomHorizontalFlip"),
        (v2.RandAugment(), "RandAugment"),
        (v2.Compose([JITTER, v2.RandomApply([v2.RandomResizedCrop(16)])]), "RandomResizedCrop"),
    ],
)
def test_what_moves_pixels_is_refused(transform: Any, name: str) -> None:
    with pytest.raises(UserError, match=rf"data\.augment={name}: moves pixels"):
        check_colors(transform)


@pytest.mark.parametrize("transform", [v2.ToDtype(torch.float32), v2.Grayscale(1)])
def test_what_makes_other_clips_is_refused(transform: Any) -> None:
    with pytest.raises(UserError, match=r"data\.augment: makes torch\..* of a clip of uint8"):
        check_colors(transform)
