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

import os
from contextlib import nullcontext

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.cli import QUEUED, command
from src.utils.errors import UserError


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Run the experiment; the value is what a sweep optimizes."""
    from src.training.launch import run_on_all_devices
    from src.training.search import fails_alone

    job = HydraConfig.get()
    sweep = job.mode == RunMode.MULTIRUN
    if sweep:  # jobs may differ in anything: one directory each
        cfg.paths.run_dir = job.runtime.output_dir
    if cfg.show is not None:
        show(cfg, list(job.overrides.task))
        return None
    queued = QUEUED in os.environ  # submitit ends a process itself, to queue its job again
    with fails_alone() if sweep and not queued else nullcontext():
        return run_on_all_devices(cfg, job)


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
