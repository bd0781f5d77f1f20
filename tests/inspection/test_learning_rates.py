"""Learning rates before training are those that an optimizer is given in it."""

import pytest

from src.experiment.config import stage_configs
from src.inspection.learning_rates import learning_rates
from tests.conftest import compose_config


def test_the_paper_s_steps_and_multipliers() -> None:
    cfg = compose_config("train", "experiment=st_resnet_ucf101")
    stages = learning_rates(stage_configs(cfg), updates=4)
    assert [stage.stage for stage in stages] == list(cfg.stages)
    motion = stages[1]
    assert motion.epochs == 400
    assert set(motion.rates) == {"weight, bn_bias", "bias, bn_weight"}
    assert motion.progress == [update / 4 for update in range(1600)]
    expected = [rate for rate in (1e-2, 1e-3, 1e-4, 1e-5) for _ in range(400)]
    assert motion.rates["weight, bn_bias"] == pytest.approx(expected)
    assert motion.rates["bias, bn_weight"] == pytest.approx([2 * rate for rate in expected])


def test_another_scheduler_and_fewer_epochs() -> None:
    cfg = compose_config(
        "train",
        "experiment=st_resnet_hmdb51",
        "lr_scheduler@stages.joint.lr_scheduler=warmup_cosine",
        "stages.joint.optimizer.lr=0.01",
        "optimizer.lr_multipliers={weight:1,bias:1,bn_weight:1,bn_bias:1}",
        "run_stages=[joint]",
        "trainer.max_epochs=30",
    )
    (joint,) = learning_rates(stage_configs(cfg))
    assert (joint.stage, joint.epochs) == ("joint", 30)
    (rates,) = joint.rates.values()
    assert len(rates) == len(joint.progress) == 600
    assert max(rates) == pytest.approx(0.01)
    assert rates[-1] > 0.005  # the cosine of eighty epochs is not over after thirty


def test_a_stage_without_a_scheduler() -> None:
    cfg = compose_config("train", "stages.joint.lr_scheduler=null", "run_stages=joint")
    (joint,) = learning_rates(stage_configs(cfg), updates=2)
    assert joint.rates["weight, bn_bias"] == [0.05] * 32
