"""The group of processes in which torchrun or SLURM has started this one, or is going to."""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from src.utils.errors import UserError
from src.utils.mistakes import one_line_errors

PLUGIN = "hydra_plugins.hydra_submitit_launcher"
FIXED = ("trainer", "trainer.devices", "trainer.num_nodes")


@dataclass(frozen=True)
class Group:
    """Processes that somebody else has started for one job."""

    starter: str  # SLURM or torchrun
    per_node: int  # how many on each machine
    nodes: int
    rank: int  # of this process, among all of them

    @classmethod
    def from_environment(cls) -> "Group | None":
        """The group that the environment tells of; None if this process was started alone.

        A single task of SLURM is alone: it starts its processes itself, as outside of SLURM.
        """
        env = os.environ
        if "TORCHELASTIC_RUN_ID" in env:
            per_node = int(env["LOCAL_WORLD_SIZE"])
            return cls("torchrun", per_node, int(env["WORLD_SIZE"]) // per_node, int(env["RANK"]))
        tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))  # srun's alone
        if tasks == 1:
            return None
        uniform = re.fullmatch(r"(\d+)(\(x\d+\))?", env["SLURM_STEP_TASKS_PER_NODE"])
        if uniform is None:
            raise UserError(
                f"SLURM started {env['SLURM_STEP_TASKS_PER_NODE']} tasks on its nodes: start as "
                "many on each, with srun --ntasks-per-node"
            )
        per_node = int(uniform[1])
        return cls("SLURM", per_node, tasks // per_node, int(env["SLURM_PROCID"]))

    def check_fits(self, trainer: pl.Trainer) -> None:
        """Refuse a trainer that needs other processes: each would train on its own, or wait."""
        if (trainer.num_devices, trainer.num_nodes) == (self.per_node, self.nodes):
            return
        raise UserError(
            f"{self.starter} started {self.per_node} processes on each of {self.nodes} nodes, but "
            f"trainer.devices is {trainer.num_devices} and trainer.num_nodes {trainer.num_nodes}: "
            f"give trainer=ddp trainer.devices={self.per_node} trainer.num_nodes={self.nodes}, or "
            "start other processes"
        )


def tell_lightning(group: Group | None) -> None:
    """Set the variables by which Lightning finds SLURM's processes.

    Lightning asks how many tasks the allocation is for, and the job's name. So it takes a script
    that does not use srun for one task of many, takes the tasks in an interactive allocation for
    lone processes, and refuses tasks that were not started with --ntasks-per-node.
    """
    if group is None:
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # Lightning believes a RANK that was a leftover of the shell
    if group is None or group.starter != "SLURM":
        os.environ.pop("SLURM_NTASKS", None)
        return
    os.environ["SLURM_NTASKS"] = str(group.per_node * group.nodes)
    os.environ["SLURM_NTASKS_PER_NODE"] = str(group.per_node)
    os.environ["SLURM_NNODES"] = str(group.nodes)
    os.environ["SLURM_NODELIST"] = os.environ["SLURM_STEP_NODELIST"]
    if SLURMEnvironment.job_name() in ("bash", "interactive"):
        del os.environ["SLURM_JOB_NAME"]


class CheckQueue(Callback):
    """Hydra calls it before the first job of `hydra/launcher=slurm`; a mistake ends the process."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a single run, which Hydra would run right here."""
        with one_line_errors():
            raise UserError("hydra/launcher=slurm queues the jobs of a sweep: add -m")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a sweep."""
        with one_line_errors():  # Hydra would make a warning of an exception
            check_queue(config)


def check_queue(config: DictConfig) -> None:
    """Check that what starts the tasks of a sweep's config is here, and that they fit its trainer.

    Raises:
        UserError: they do not, or some job of the sweep might have another trainer.
    """
    if find_spec(PLUGIN) is None:
        raise UserError(
            "hydra/launcher=slurm needs hydra-submitit-launcher, which is not installed: "
            'pip install -e ".[slurm]"'
        )
    params = config.hydra.sweeper.get("params") or {}
    given = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    for override in OverridesParser.create().parse_overrides(given):
        if override.is_sweep_override() and override.key_or_group in FIXED:
            raise UserError(
                f"{override.key_or_group} is swept, but all jobs of a queue have the same tasks: "
                "queue a sweep for each of its values"
            )
    launcher, trainer = config.hydra.launcher, config.trainer
    for key, counted in (("devices", "tasks_per_node"), ("num_nodes", "nodes")):
        if not isinstance(trainer[key], int):
            raise UserError(
                f"trainer.{key}={trainer[key]}: hydra/launcher=slurm has to know how many, give a "
                f"number"
            )
        if launcher[counted] != trainer[key]:
            raise UserError(
                f"hydra.launcher.{counted}={launcher[counted]} does not fit trainer.{key}="
                f"{trainer[key]}: one task per device, leave hydra.launcher.{counted} away"
            )
