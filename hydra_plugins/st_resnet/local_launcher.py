"""Jobs of a sweep side by side on one machine, as Hydra's launcher.

    python -m src.train -m experiment=st_resnet_hmdb51 seed=1,2,3,4 hydra/launcher=local

Each is a process of its own, on GPUs of its own; see `src.training.local_jobs`.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from src.utils.commands import in_hydra
from src.utils.errors import UserError
from src.utils.values import NULL, check_values, integer

if TYPE_CHECKING:
    from src.training.local_jobs import LocalJob

# What Hydra is given for the sweep, and must not be given for a run.
_OF_SWEEPS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweep", "hydra.mode")


class LocalLauncher(Launcher):
    """What `hydra/launcher=local` chooses.

    Args:
        n_jobs: how many run at a time; None for as many as there are GPUs for, one on a CPU.
    """

    config: DictConfig
    loader: ConfigLoader

    def __init__(self, n_jobs: int | None = None) -> None:
        check_values({"n_jobs": n_jobs}, {"n_jobs": integer(1) | NULL}, "hydra.launcher.")
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember what composes jobs."""
        self.config, self.loader = config, hydra_context.config_loader

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs, and return what became of each, in their order."""
        from src.reporting.sweep import print_job
        from src.training.local_jobs import VISIBLE, Devices, LocalJob, run_jobs

        setup_globals()
        configs = [self._composed(one, initial_job_idx + i) for i, one in enumerate(job_overrides)]
        visible = os.environ.get(VISIBLE)
        names = _gpus() if visible is None else [name for name in visible.split(",") if name]
        needs = [_devices(config, names) for config in configs]
        jobs = [
            self._job(config, list(overrides), devices)
            for config, overrides, devices in zip(configs, job_overrides, needs, strict=True)
        ]
        fits = [len(names) // devices for devices in needs if devices]
        returns: dict[Path, JobReturn] = {}

        began = time.time()

        def ended(job: LocalJob, status: int) -> None:
            returns[job.folder] = _returned(job, status, began)
            print_job(job.folder)

        run_jobs(jobs, self.n_jobs or min(fits, default=1), Devices(names), ended)
        return [returns[job.folder] for job in jobs]

    def _composed(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self.loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _job(self, config: DictConfig, overrides: list[str], devices: int) -> "LocalJob":
        from src.experiment.config import stage_names
        from src.experiment.run_dir import stage_dirs
        from src.training.local_jobs import LocalJob, train

        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        of_hydra = [
            one for one in self.config.hydra.overrides.hydra if not one.startswith(_OF_SWEEPS)
        ]
        cfg: Any = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
        del cfg["hydra"]
        cfg.paths.run_dir = str(folder)
        dirs = stage_dirs(cfg)
        shared = {dirs[name].path for name in stage_names(cfg)}
        arguments = [
            *of_hydra,
            *overrides,
            "hydra.mode=RUN",
            f"paths.run_dir={in_hydra(str(folder))}",
        ]
        sources = config.hydra.runtime.config_sources
        own = [source.path for source in sources if source.provider == "command-line"]
        return LocalJob(
            label=folder.name,
            work=train,
            arguments=[[*(f"--config-dir={path}" for path in own), *arguments]],
            overrides=overrides,
            folder=folder,
            devices=devices,
            shared=frozenset(path for path in shared if path.parent != folder),
        )


def _gpus() -> list[str]:
    import torch

    return list(map(str, range(torch.cuda.device_count())))


def _devices(config: DictConfig, names: Sequence[str]) -> int:
    """How many GPUs a job needs.

    Raises:
        UserError: more than there are, particular ones, or other machines.
    """
    trainer = config.trainer
    if trainer.get("num_nodes", 1) != 1:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}: hydra/launcher=local runs jobs on this "
            "machine, hydra/launcher=slurm on several"
        )
    if trainer.accelerator == "cpu" or not names:
        return 0
    if trainer.devices in ("auto", -1):
        return len(names)
    if not isinstance(trainer.devices, int):
        raise UserError(
            f"trainer.devices={trainer.devices}: hydra/launcher=local chooses GPUs itself, give "
            "their number"
        )
    if trainer.devices > len(names):
        raise UserError(f"trainer.devices={trainer.devices}: there are {len(names)} GPUs here")
    return int(trainer.devices)


def _returned(job: "LocalJob", status: int, began: float) -> JobReturn:
    """What a sweeper is told of a job, whose process has ended."""
    from src.training.local_jobs import LOG
    from src.training.run_record import FAILED, PRUNED, RUNNING, RunRecord

    record = RunRecord.load(job.folder)
    if record is None or record.began < began:  # it ended before it could keep one
        record = RunRecord(tuple(job.overrides), {}, began=time.time())
    if record.state == RUNNING:  # nobody else is left to say what became of it
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        record = replace(record, state=FAILED, reason=f"its process ended {how}")
        record.save(job.folder)
    result = JobReturn()
    result.overrides, result.working_dir = list(record.overrides), str(job.folder)
    result.status = JobStatus.FAILED if status else JobStatus.COMPLETED
    result.return_value = math.nan if record.state == PRUNED else record.value
    if status:
        reason = record.reason or record.state
        result.return_value = UserError(f"{job.label} failed: {reason}; see {job.folder / LOG}")
    return result
