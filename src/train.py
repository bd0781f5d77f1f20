"""Train an experiment, stage by stage; a finished stage is not trained again.

python -m src.train                                             the embedded experiment
python -m src.train experiment=st_resnet_hmdb51 data.split=1
python -m src.train experiment=st_resnet_hmdb51 trainer=ddp trainer.devices=8
python -m src.train experiment=st_resnet_hmdb51 run_stages=joint \
    stages.joint.init_from.motion=m.ckpt
python -m src.train experiment=st_resnet_hmdb51 debug=config    what each stage trains with
python -m src.train experiment=st_resnet_hmdb51 debug=summary   the networks, part by part
python -m src.train -m experiment=st_resnet_hmdb51 data.split=1,2,3
"""

import gc
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from src.cli import QUEUED, command
from src.experiment.sweeps import started
from src.utils.errors import UserError


@command("train")
def run(cfg: DictConfig) -> float | None:
    """Run the experiment; the value is what a sweep optimizes."""
    from src.reporting.sweep import print_job
    from src.training.group import Group
    from src.training.launch import run_on_all_devices
    from src.training.run_record import recorded
    from src.training.search import fails_alone

    job = HydraConfig.get()
    sweep = job.mode == RunMode.MULTIRUN
    queued = QUEUED in os.environ  # submitit ends a process itself, to queue its job again
    if sweep:  # jobs may differ in anything: one directory each
        cfg.paths.run_dir = job.runtime.output_dir
    if sweep and not queued:
        cfg.summary = False
        log_to_folder(job)
        gc.collect()  # networks and trainers of the job before: they refer to each other
    overrides = list(job.overrides.task)
    if cfg.show is not None:
        show(cfg, overrides)
        return None
    with fails_alone() if sweep and not queued else nullcontext():
        group = Group.from_environment()
        if group and group.rank:  # the first one keeps the record
            return run_on_all_devices(cfg, job)
        value = recorded(cfg, overrides, lambda: run_on_all_devices(cfg, job))
    if sweep:
        print_job(Path(cfg.paths.run_dir))
    return value


def main() -> None:
    """Run the command line; a sweep ends in a table, however it ends."""
    try:
        run()
    finally:
        if started:
            from src.reporting.sweep import report_sweep
            from src.training.group import Group

            config, began = started.pop()
            group = Group.from_environment()
            if config.show is None and not (group and group.rank):
                report_sweep(config, began)


def log_to_folder(job: Any) -> None:
    """Leave what a job logs to the file in its folder; warnings are shown, too."""
    with read_write(job), open_dict(job):
        if "console" in job.job_logging.get("handlers", {}):
            job.job_logging.handlers.console.level = "WARNING"
    configure_log(job.job_logging, job.verbose)


def show(cfg: DictConfig, overrides: list[str]) -> None:
    """Print each stage's config, or its network, in place of training it."""
    from src.experiment.config import stage_configs

    if cfg.show not in ("config", "summary"):
        raise UserError(f"show={cfg.show}: choose from config, summary")
    configs = stage_configs(cfg, overrides)
    if cfg.show == "config":
        print(OmegaConf.to_yaml({"stages": configs}))
        return
    from src.training.summary import summarize

    summarize(configs)


if __name__ == "__main__":
    main()
