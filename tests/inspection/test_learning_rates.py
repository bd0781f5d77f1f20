"""Learning rates before training are those that an optimiser is given in it."""

import pytest

from src.inspection.learning_rates import learning_rates
from tests.conftest import compose_config


def test_the_paper_s_phases_and_factors() -> None:
    config = compose_config("train", "experiment=st_resnet_ucf101")
    stages = learning_rates(config)
    assert [stage.stage for stage in stages] == list(config["stages"])
    motion = stages[1]
    phases = config["stages"]["motion"]["module"]["schedule"]["phases"]
    assert motion.passes == sum(passes for _, passes in phases)
    assert set(motion.rates) == {"filter, bn_shift", "bias, bn_scale"}
    assert motion.progress[0] == 0
    assert motion.progress[-1] == motion.passes
    end = 0.0
    for rate, passes in phases:
        inside = [i for i, done in enumerate(motion.progress) if end < done < end + passes]
        end += passes
        assert {motion.rates["filter, bn_shift"][i] for i in inside} == {float(rate)}
        assert {motion.rates["bias, bn_scale"][i] for i in inside} == {2 * float(rate)}


def test_one_schedule_for_all_stages_and_fewer_passes() -> None:
    cfg = compose_config(
        "train",
        "schedule=cosine",
        "schedule.lr=0.01",
        "optimizer.factors={filter:1,bias:1,bn_scale:1,bn_shift:1}",
        "only=[joint]",
        "trainer.max_epochs=3",
    )
    (joint,) = learning_rates(cfg)
    assert (joint.stage, joint.passes) == ("joint", 3)
    (rates,) = joint.rates.values()
    assert max(rates) == pytest.approx(0.01, rel=1e-3)
    assert rates[-1] > 0.005  # the cosine of sixteen passes is not over after three
