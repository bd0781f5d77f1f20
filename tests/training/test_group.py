"""Who has started the processes: what SLURM and torchrun tell, and what Lightning makes of it."""

import os

import pytest
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from src.training.group import Group, tell_lightning
from src.utils.errors import UserError

# Variables as SLURM 22.05 sets them.
ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "host",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
ONE = {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
FOUR = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_PROCID": "3"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
}


@pytest.mark.parametrize(
    ("variables", "group"),
    [
        ({}, None),
        ({**ALLOCATION, "SLURM_JOB_NAME": "train"}, None),  # a script that does not use srun
        ({**ALLOCATION, **ONE, "SLURM_JOB_NAME": "train"}, None),
        ({**ALLOCATION, **STEP, "SLURM_JOB_NAME": "train"}, Group("SLURM", 2, 1, 1)),
        ({**ALLOCATION, **STEP, "SLURM_JOB_NAME": "interactive"}, Group("SLURM", 2, 1, 1)),
        ({**ALLOCATION, **STEP, **FOUR, "SLURM_JOB_NAME": "bash"}, Group("SLURM", 2, 2, 3)),
        (TORCHRUN, Group("torchrun", 2, 2, 3)),
        ({**ALLOCATION, **STEP, **TORCHRUN}, Group("torchrun", 2, 2, 3)),
    ],
)
def test_group_and_what_lightning_thinks(
    variables: dict[str, str], group: Group | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(variables))
    assert Group.from_environment() == group
    tell_lightning(group)
    by_slurm = group is not None and group.starter == "SLURM"
    assert SLURMEnvironment.detect() == by_slurm
    if group is not None and by_slurm:
        environment = SLURMEnvironment(auto_requeue=False)  # refuses what is not consistent
        environment.validate_settings(group.per_node, group.nodes)
        assert environment.world_size() == group.per_node * group.nodes
        assert environment.global_rank() == group.rank
        assert environment.main_address == "host"


def test_uneven_tasks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    uneven = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}
    monkeypatch.setattr(os, "environ", {**ALLOCATION, **STEP, **uneven})
    with pytest.raises(UserError, match="2,1 tasks"):
        Group.from_environment()
