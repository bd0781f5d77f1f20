"""Late fusion: the weighted mean of the video-level scores of several networks, or of others'.

    python -m src.fuse inputs=[appearance/last.ckpt,motion/last.ckpt]
    python -m src.fuse inputs=[joint/last.ckpt,idt.csv] weights=[1,0.5] average_over=probabilities

A checkpoint is evaluated first; a file of scores is taken as it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.utils.errors import UserError
from src.utils.values import NAMES, PATH


@command("fuse", inputs=NAMES, output=PATH)
def main(cfg: DictConfig) -> None:
    """Score what is a checkpoint, print the accuracies, write the fused scores."""
    from src.training.launch import run_on_all_devices

    run_on_all_devices(cfg, HydraConfig.get(), _fuse)


def _fuse(cfg: DictConfig, _: Sequence[str]) -> None:
    from src.evaluation.fusion import fuse_inputs
    from src.evaluation.table import show_results
    from src.training.progress import progress_bars
    from src.training.trainer import instantiate_trainer
    from src.utils.ranks import own_rank

    config: Any = OmegaConf.to_container(cfg, throw_on_missing=True)
    for key in ("inputs", "weights"):
        if not isinstance(config[key], list | None):
            raise UserError(f"{key}={config[key]} is no list: write {key}=[...,...]")
    results, fused = fuse_inputs(
        config["inputs"],
        config["weights"],
        config["average_over"],
        lambda: instantiate_trainer(cfg.trainer, callbacks=progress_bars(cfg.trainer, "test")),
        config["data"],
        config["protocol"],
    )
    if own_rank() == 0:
        show_results(results, "late fusion: video level")
        fused.save(Path(config["output"]))
        print(f"fused scores of every video: {config['output']}")


if __name__ == "__main__":
    main()
