"""MixUp and CutMix: one draw for all images of a batch, and targets in the same shares."""

import pytest
import torch
from torch import Tensor

from src.models.optimization import CutMix, Mixing, MixUp

CLASSES, FRAMES, SIDE = 5, 3, 16
MIXINGS = [MixUp(1.0), CutMix(1.0)]


@pytest.fixture
def clips() -> dict[str, Tensor]:
    return {
        "rgb": torch.randn(4, 3, FRAMES, SIDE, SIDE),
        "flow": torch.randn(4, 20, FRAMES, SIDE, SIDE),
    }


LABEL = torch.tensor([0, 3, 1, 3])


def own_share(before: Tensor, after: Tensor) -> Tensor:
    """For each value how much of it is the clip's own, the rest being the clip's before it."""
    other = before.roll(1, 0)
    return (after - other) / (before - other)


def whole_target(share: float) -> Tensor:
    """Shares of the classes if every clip keeps `share` of itself."""
    target = torch.zeros(len(LABEL), CLASSES)
    for row, label in enumerate(LABEL):
        target[row, label] += share
        target[row, LABEL[row - 1]] += 1 - share
    return target


def test_mixup_has_one_share_for_all_images_and_targets(clips: dict[str, Tensor]) -> None:
    shares = []
    for _ in range(5):
        mixed, target = MixUp(1.0)(clips, LABEL, CLASSES)
        share = own_share(clips["rgb"], mixed["rgb"]).median().item()
        for name, clip in clips.items():
            expected = share * clip + (1 - share) * clip.roll(1, 0)
            torch.testing.assert_close(mixed[name], expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(target, whole_target(share), rtol=1e-3, atol=1e-3)
        shares.append(round(share, 3))
    assert len(set(shares)) == 5  # another draw for every batch
    assert all(0 <= share <= 1 for share in shares)


def test_cutmix_has_one_box_for_all_images_and_its_area_in_the_targets(
    clips: dict[str, Tensor],
) -> None:
    areas = []
    for _ in range(10):
        mixed, target = CutMix(1.0)(clips, LABEL, CLASSES)
        pasted = mixed["rgb"][0, 0, 0] != clips["rgb"][0, 0, 0]  # (H, W)
        for name, clip in clips.items():
            assert torch.equal(mixed[name], torch.where(pasted, clip.roll(1, 0), clip))
        rows, columns = pasted.any(1).sum().item(), pasted.any(0).sum().item()
        assert rows * columns == pasted.sum().item()  # a box
        area = pasted.sum().item() / SIDE**2
        torch.testing.assert_close(target, whole_target(1 - area))
        areas.append(area)
    assert len(set(areas)) > 5


@pytest.mark.parametrize("mixing", MIXINGS)
def test_draws_are_seeded_and_leave_the_batch_as_it_was(
    mixing: Mixing, clips: dict[str, Tensor]
) -> None:
    before = {name: clip.clone() for name, clip in clips.items()}
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(mixing(clips, LABEL, CLASSES))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert not torch.equal(results[0][0]["flow"], results[2][0]["flow"])
    assert all(torch.equal(before[name], clips[name]) for name in clips)
    assert torch.equal(LABEL, torch.tensor([0, 3, 1, 3]))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_one_modality_in_half_precision(mixing: Mixing, clips: dict[str, Tensor]) -> None:
    mixed, target = mixing({"flow": clips["flow"].bfloat16()}, LABEL, CLASSES)
    assert type(mixed["flow"]) is Tensor
    assert mixed["flow"].dtype == target.dtype == torch.bfloat16
    torch.testing.assert_close(target.float().sum(1), torch.ones(4), rtol=0.01, atol=0.01)


def test_impossible_alpha_is_refused() -> None:
    for alpha in (0.0, float("inf")):
        with pytest.raises(ValueError, match=r"mixing\.alpha=.*above 0"):
            MixUp(alpha)
