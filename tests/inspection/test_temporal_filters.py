"""Filters taken apart into averages and differences, from known starts."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from src.experiment.run_dir import StageDir
from src.inspection.temporal_filters import shares, starting_weights, temporal_filters
from src.models.connection import ADDITIVE
from src.models.resnet import appearance_stream, motion_stream
from src.models.temporal import TemporalFilters
from src.models.two_stream import TwoStreamResNet
from src.models.weights import net_weights, read_checkpoint
from src.utils.errors import UserError

# Of kernel (1, 1, 1), (0, 1, 0) and (-1, 3, -1): squares of their products with the basis.
STARTS = {
    "average": (1.0, 0.0, 0.0),
    "identity": (1 / 3, 0.0, 2 / 3),
    "difference": (1 / 33, 0.0, 32 / 33),
}


def streams() -> dict[str, torch.nn.Module]:
    return {"appearance": appearance_stream(3, 26, 4), "motion": motion_stream(3, 2, 26, 4)}


def grown(filters: TemporalFilters, parts: dict[str, torch.nn.Module]) -> TwoStreamResNet:
    return TwoStreamResNet(**parts, connection=ADDITIVE, temporal_filters=filters)  # type: ignore[arg-type]


@pytest.mark.parametrize("init", STARTS)
@pytest.mark.parametrize("kind", ["inflated", "inserted"])
def test_fresh_filters_have_the_shares_of_their_taps(kind: str, init: str) -> None:
    found = temporal_filters(grown(TemporalFilters(kind, init), streams()))
    convolutions = ["temporal"] if kind == "inserted" else ["conv1", "conv3"]
    assert [each.name for each in found] == [
        f"{stream}.layer{stage}.1.{conv}"
        for stream in ("appearance", "motion")
        for stage in (1, 2, 3, 4)
        for conv in convolutions
    ]
    for each in found:
        assert each.stream in each.name
        assert f"layer{each.stage}" in each.name
        assert_close(tuple(each.shares.values()), STARTS[init], atol=1e-6, rtol=0)


def test_shares_of_a_pure_difference_and_of_any_filter() -> None:
    weight = torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 1, 3, 1, 1)
    assert_close(list(shares(weight).values()), [0.0, 1.0, 0.0])
    assert_close(sum(shares(torch.randn(4, 5, 3, 1, 1)).values()), 1.0)


def test_distance_from_the_filters_that_a_net_has_grown_from() -> None:
    parts = streams()
    start = {
        f"{stream}.{name}": weight.clone()
        for stream, part in parts.items()
        for name, weight in part.state_dict().items()
    }
    net = grown(TemporalFilters("inflated", "difference"), parts)
    assert all(each.distance is None for each in temporal_filters(net))
    assert {each.distance for each in temporal_filters(net, start)} == {0.0}
    changed = net.get_parameter("motion.layer2.1.conv3.weight")
    changed.data *= 1.5
    for each in temporal_filters(net, start):
        moved = each.name == "motion.layer2.1.conv3"
        assert_close(each.distance, 0.5 if moved else 0.0)
        assert_close(each.shares["average"], STARTS["difference"][0], atol=1e-6, rtol=0)


def test_injected_filters_know_their_start() -> None:
    net = grown(TemporalFilters("inserted", "identity"), streams())
    assert {each.distance for each in temporal_filters(net)} == {0.0}
    net.get_parameter("motion.layer1.1.temporal.weight").data.zero_()
    found = {each.name: each.distance for each in temporal_filters(net, {})}
    assert found["motion.layer1.1.temporal"] == 1.0
    assert found["motion.layer2.1.temporal"] == 0.0


def test_a_net_without_temporal_filters_and_a_start_of_another_net() -> None:
    assert temporal_filters(appearance_stream(3, 26, 4)) == []
    net = grown(TemporalFilters(), streams())
    other = appearance_stream(3, 26, 8).state_dict()
    with pytest.raises(UserError, match=r"layer1\.1\.conv1\.weight is"):
        temporal_filters(net, {f"appearance.{name}": w for name, w in other.items()})


def test_a_run_s_stages_start_where_its_earlier_ones_have_ended(finished_run: Path) -> None:
    ends = {
        stage: net_weights(read_checkpoint(StageDir(finished_run / stage).checkpoint))
        for stage in ("appearance", "motion", "joint")
    }
    joint = starting_weights(str(StageDir(finished_run / "joint").checkpoint))
    name = "layer1.1.conv1.weight"
    for stream in ("appearance", "motion"):
        assert torch.equal(joint[f"{stream}.{name}"], ends[stream][name])
    pooled = starting_weights(str(StageDir(finished_run / "joint_pooled").checkpoint))
    assert torch.equal(pooled[f"motion.{name}"], ends["joint"][f"motion.{name}"])
    assert starting_weights(str(StageDir(finished_run / "motion").checkpoint)) == {}


def test_a_run_that_was_moved_starts_from_what_is_beside_it(
    finished_run: Path, tmp_path: Path
) -> None:
    joint, beside = (StageDir(tmp_path / "moved" / stage) for stage in ("joint", "appearance"))
    original = StageDir(finished_run / "joint")
    for one in (joint, beside):
        one.path.mkdir(parents=True)
        one.checkpoint.symlink_to(original.checkpoint)  # not what lies at the old place
    joint.record.write_text(original.record.read_text())
    start = starting_weights(str(joint.checkpoint))
    assert start["appearance.layer1.1.conv1.weight"].ndim == 5
    assert start["motion.layer1.1.conv1.weight"].ndim == 4  # it is at the old place only
