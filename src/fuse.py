"""Late fusion: the weighted mean of the video-level scores of several networks, or of others'.

    python -m src.fuse inputs=[appearance/last.ckpt,motion/last.ckpt]
    python -m src.fuse inputs=[joint/last.ckpt,idt.csv] weights=[1,0.5] average=softmax

A checkpoint is evaluated first; a file of scores is taken as it is.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from src.cli import command
from src.errors import UserError
from src.evaluation.fuse_inputs import fuse_inputs
from src.evaluation.scores import VideoScores
from src.evaluation.table import Result, show_results
from src.training.trainer import instantiate_trainer


@command("fuse")
def main(cfg: DictConfig) -> None:
    """Score what is a checkpoint, print the accuracies, write the fused scores."""
    config: Any = OmegaConf.to_container(cfg, throw_on_missing=True)
    for key in ("inputs", "weights"):
        if not isinstance(config[key], list | None):
            raise UserError(f"{key}={config[key]} is no list: write {key}=[...,...]")
    results, fused = fuse_inputs(
        config["inputs"],
        config["weights"],
        config["average"],
        lambda: instantiate_trainer(cfg.trainer),
        config["data"],
        config["protocol"],
    )
    _report(results, fused, Path(config["output"]))


@rank_zero_only
def _report(results: list[Result], fused: VideoScores, output: Path) -> None:
    show_results(results, "late fusion: video level")
    output.parent.mkdir(parents=True, exist_ok=True)
    fused.save(output)
    print(f"fused scores of every video: {output}")


if __name__ == "__main__":
    main()
