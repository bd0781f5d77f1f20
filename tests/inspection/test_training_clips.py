"""Clips as training gets them, from the loader to the network."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from src.experiment.build import build_datamodule, build_module, build_net
from src.experiment.config import stage_config
from src.inspection.training_clips import ready, training_clips
from tests.conftest import compose_config


def test_the_net_gets_what_the_loader_gives(tiny: tuple[str, ...]) -> None:
    config = stage_config(compose_config("train", *tiny), "joint")
    clips = training_clips(config)
    data = build_datamodule(config)
    data.setup()
    expected = next(iter(data.train_dataloader()))
    assert clips.loaded["video"] == expected["video"]
    restored = clips.restored()
    for name in ("rgb", "flow"):
        assert torch.equal(clips.loaded[name], expected[name])
        assert torch.equal(restored[name], expected[name])  # normalized and back
    labels = expected["label"].tolist()
    assert clips.titles() == [data.videos.classes[label] for label in labels]
    flow = clips.statistics()["flow"]
    assert flow["max"] == pytest.approx((int(expected["flow"].max()) - 128) / 57.63)


def test_training_gives_the_net_these_clips(tiny: tuple[str, ...]) -> None:
    config = stage_config(compose_config("train", *tiny, "mixing=mixup"), "joint")
    loaded = training_clips(config).loaded
    module = build_module(config, build_net(config), total_steps=1)
    given: list[tuple[Tensor, ...]] = []
    module.net.register_forward_pre_hook(lambda _module, inputs: given.append(inputs))
    torch.manual_seed(1)
    net_input, target = module.training_clips(loaded)
    torch.manual_seed(1)
    clips_of_step, target_of_loss = module.training_clips(loaded)
    logits = module.classify(clips_of_step)
    assert torch.equal(given[0][0], net_input["rgb"])
    assert torch.equal(given[0][1], net_input["flow"])
    assert torch.equal(target, target_of_loss)
    assert set(logits) == {"appearance", "motion"}


def test_mixed_clips_say_what_they_are_trained_as(tiny: tuple[str, ...]) -> None:
    config = stage_config(compose_config("train", *tiny, "mixing=cutmix"), "joint")
    clips = training_clips(config)
    restored = clips.restored()["rgb"].int()
    rgb = clips.loaded["rgb"].int()
    from_own, from_neighbor = restored == rgb, restored == rgb.roll(1, 0)
    assert (from_own | from_neighbor).all()
    share = float((~from_own.all(1)).double().mean())
    assert (share > 0) == any("," in title for title in clips.titles())
    assert_close(clips.target.sum(1), torch.ones(len(clips.target)))
    for title, shares in zip(clips.titles(), clips.target.tolist(), strict=True):
        assert title.startswith(f"{100 * max(shares):.0f} %")


@pytest.mark.slow
def test_flow_on_the_fly_is_there(tiny: tuple[str, ...]) -> None:
    config = stage_config(compose_config("train", *tiny, "data.flow=on_the_fly"), "joint")
    data = build_datamodule(config)
    data.prepare_data()
    data.setup()
    (batch,) = ready(data, data.val_dataloader(), limit=1)
    assert batch["flow"].shape[1] == 20
    assert training_clips(config, data).loaded["flow"].dtype == torch.uint8
