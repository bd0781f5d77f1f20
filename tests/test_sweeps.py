"""The grids of conf/sweep: their jobs compose, and differ in what they should."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf

from src.experiment.build import build_net
from src.experiment.compose import CONF_DIR
from src.experiment.config import stage_config, what_matters
from src.experiment.run_dir import stage_dirs
from src.experiment.sweeps import job_folder
from src.models.temporal import STREAMS
from tests.conftest import compose_config

SEARCH = "search"  # no grid: Optuna draws its jobs
SWEEPS = sorted({path.stem for path in (CONF_DIR / "sweep").glob("*.yaml")} - {SEARCH})
JOBS = {
    "claim": 25,
    "cross_stream": 13,
    "depth": 9,
    "splits": 3,
    "temporal_filters": 18,
    "temporal_pool": 8,
}


def jobs_of(sweep: str) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper multiplies them out."""
    overrides = parsed(sweep)
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return batch


def parsed(sweep: str) -> list[Override]:
    """What a sweep draws from."""
    params: Any = OmegaConf.load(CONF_DIR / "sweep" / f"{sweep}.yaml").hydra.sweeper.params
    return OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])


def test_all_sweeps_are_known() -> None:
    assert sorted(JOBS) == SWEEPS


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS)
def test_jobs_train_different_joint_networks(sweep: str) -> None:
    jobs, trained = jobs_of(sweep), []
    assert len(jobs) == JOBS[sweep]
    experiment = "st_resnet_two_movers" if sweep == "claim" else "st_multiplier_hmdb51"
    some = jobs[:: -(-len(jobs) // 4)]
    for job in some:
        cfg = compose_config("train", f"experiment={experiment}", f"sweep={sweep}", *job)
        config = stage_config(cfg, "joint")
        trained.append(str(what_matters(config)))
        data = config["data"]
        size = data["frames"], data["crop_size"], data["crop_size"]
        with torch.device("meta"):  # a wrong combination would be refused
            build_net(config).eval()(torch.empty(1, 3, *size), torch.empty(1, 20, *size))
    assert len(set(trained)) == len(some)
    swept = [one.get_key_element() for one in parsed(sweep)]
    assert len({job_folder(job, swept) for job in jobs}) == len(jobs)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["claim", "cross_stream", "temporal_filters", "temporal_pool"])
def test_jobs_that_differ_in_joint_training_share_the_streams(sweep: str) -> None:
    """One directory and one config for a stream, whatever the job of its seed and split."""
    experiment = f"experiment=st_multiplier_{'two_movers' if sweep == 'claim' else 'ucf101'}"
    trained: dict[Path, set[str]] = {}
    jobs = jobs_of(sweep)
    for job in [*jobs[:2], jobs[-1]]:
        cfg = compose_config("train", experiment, f"sweep={sweep}", *job)
        for stream in STREAMS:
            matters = str(what_matters(stage_config(cfg, stream)))
            trained.setdefault(stage_dirs(cfg)[stream].path, set()).add(matters)
    assert len(trained) == 2 * (2 if sweep == "claim" else 1)
    assert all(len(same) == 1 for same in trained.values())


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["st_resnet_two_movers", "st_multiplier_ucf101"])
def test_a_search_draws_joint_networks_that_share_the_streams(experiment: str) -> None:
    """The lowest and the highest value of each range, the first and the last of each choice."""
    drawn: dict[str, list[str]] = {}
    for override in parsed(SEARCH):
        sweep: Any = override.value()
        if isinstance(sweep, IntervalSweep):
            values: list[Any] = [sweep.start, sweep.end]
        else:
            values = list(override.sweep_string_iterator())
        drawn[override.get_key_element()] = [str(values[0]), str(values[-1])]
    base = [f"experiment={experiment}", f"sweep={SEARCH}"]
    streams, joint = set(), set()
    for end in (0, 1):
        job = [f"{key}={values[end]}" for key, values in drawn.items()]
        cfg = compose_config("train", *base, *job)
        config = stage_config(cfg, "joint")
        joint.add(str(what_matters(config)))
        assert config["optimizer"]["lr"] == float(drawn["stages.joint.optimizer.lr"][end])
        assert config["data"]["frame_stride"] == json.loads(
            drawn["stages.joint.data.frame_stride"][end]
        )
        assert build_net(config).appearance.dropout.p == float(drawn["model.net.dropout"][end])
        streams |= {
            (stage_dirs(cfg)[s].path, str(what_matters(stage_config(cfg, s)))) for s in STREAMS
        }
    assert len(joint) == len(streams) == 2
