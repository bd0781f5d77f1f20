"""What a connection contributes, against a network that never had it at that stage."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from src.inspection.contributions import contributions
from src.models.connection import Connection
from src.models.modules import Batch, VideoClassifier
from src.models.two_stream import TwoStreamResNet
from src.utils.errors import UserError
from tests.builders import random_batch, random_module


def net_of(made: VideoClassifier) -> TwoStreamResNet:
    assert isinstance(made.net, TwoStreamResNet)
    return made.net


def logits(made: VideoClassifier, batch: Batch) -> Tensor:
    with torch.no_grad():
        return torch.stack(list(made.logits(batch).values())).mean((0, 2))


@pytest.mark.parametrize("kind", ["additive", "multiplicative"])
def test_a_stage_switched_off_is_a_net_without_it(kind: str) -> None:
    made, batch = random_module("joint", Connection(kind, stages=[2, 4])), random_batch(4)
    found = contributions(made, [batch])
    assert [each.stage for each in found] == [2, 4]
    z, label = logits(made, batch), batch["label"]
    for each, others in zip(found, ([4], [2]), strict=True):
        without = deepcopy(made)
        net_of(without).connection = Connection(kind, stages=others)
        z_without = logits(without, batch)
        change = ((z_without - z).norm(dim=1) / z.norm(dim=1)).mean()
        assert_close(each.logit_change, float(change))
        assert each.top1 == 100 * float((z.argmax(1) == label).double().mean())
        assert each.top1_without == 100 * float((z_without.argmax(1) == label).double().mean())
        assert each.clips == 4
    assert net_of(made).connection == Connection(kind, stages=[2, 4])


def test_the_ratio_of_an_additive_signal() -> None:
    """|f(x_m)| / |x_a| of stage 1, from the blocks' outputs."""
    made, batch = random_module("joint"), random_batch(3)
    outputs: dict[str, Tensor] = {}
    for stream in ("appearance", "motion"):
        block = net_of(made).get_submodule(f"{stream}.layer1.0")
        block.register_forward_hook(lambda _m, _i, x, stream=stream: outputs.update({stream: x}))
    logits(made, batch)
    x_a, x_m = (outputs[s].unflatten(0, (3, -1)).flatten(1) for s in ("appearance", "motion"))
    expected = (F.relu(x_m).norm(dim=1) / x_a.norm(dim=1)).mean()
    first = contributions(made, [batch])[0]
    assert_close(first.ratios, {"appearance": float(expected)})


def test_batches_make_one_mean() -> None:
    made, batch = random_module("joint"), random_batch(3)
    parts = [{name: x[some] for name, x in batch.items()} for some in (slice(2), slice(2, 3))]
    for one, other in zip(contributions(made, [batch]), contributions(made, parts), strict=True):
        assert_close(one.logit_change, other.logit_change)
        assert_close(one.ratios, other.ratios)
        assert (one.top1, one.top1_without, one.clips) == (
            other.top1,
            other.top1_without,
            other.clips,
        )


@pytest.mark.parametrize(
    ("direction", "streams"),
    [
        ("motion_to_appearance", {"appearance"}),
        ("appearance_to_motion", {"motion"}),
        ("both", {"appearance", "motion"}),
    ],
)
def test_the_signal_is_measured_where_it_enters(direction: str, streams: set[str]) -> None:
    made = random_module("joint", Connection(direction=direction))
    for each in contributions(made, [random_batch()]):
        assert set(each.ratios) == streams
        assert all(ratio > 0 for ratio in each.ratios.values())


def test_a_factor_of_one_contributes_no_signal() -> None:
    """Multiplied by ones a stream is unchanged, whatever the size of the ones."""
    connection = Connection("multiplicative", stages=[3])
    made = random_module("joint", connection)
    block = net_of(made).get_submodule("motion.layer3.0")
    block.register_forward_hook(lambda _m, _i, x: torch.ones_like(x))
    (found,) = contributions(made, [random_batch()])
    assert found.ratios == {"appearance": 0.0}


def test_what_cannot_be_measured() -> None:
    for made in (random_module("joint", replace(Connection(), stages=())), random_module("rgb")):
        with pytest.raises(UserError, match="connect"):
            contributions(made, [random_batch()])
    with pytest.raises(UserError, match="no clip"):
        contributions(random_module("joint"), [])
