"""Test a checkpoint on the test videos of its split.

python -m src.evaluate ckpt_path=outputs/st_resnet_two_movers/split1_seed0/joint/last.ckpt
python -m src.evaluate ckpt_path=joint.ckpt +data.dataset.root=/datasets/hmdb51
python -m src.evaluate ckpt_path=joint.ckpt protocol=ten_crops protocol.average_over=probabilities
python -m src.evaluate ckpt_path=joint.ckpt videos=new_clips           <class>/<video>.mp4
python -m src.evaluate ckpt_path=joint.ckpt videos=new_clips/test.csv flow=new_clips/flow
"""

import re
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.utils.errors import UserError
from src.utils.values import NULL, PATH


def main() -> None:
    """Run the command line. `flow` is a folder here; to Hydra it is a group of choices in conf/."""
    sys.argv[1:] = [re.sub("^flow=", "flow_folder=", argument) for argument in sys.argv[1:]]
    run()


@command(
    "evaluate", ckpt_path=PATH, output=PATH | NULL, videos=PATH | NULL, flow_folder=PATH | NULL
)
def run(cfg: DictConfig) -> None:
    """Score the test videos, print the accuracies, write scores.csv."""
    from src.training.launch import run_on_all_devices

    run_on_all_devices(cfg, HydraConfig.get(), _score)


def _score(cfg: DictConfig, _: Sequence[str]) -> None:
    from src.evaluation.evaluate import (
        TestVideos,
        confusion_beside,
        evaluate_checkpoint,
        scores_beside,
    )
    from src.evaluation.table import show_results
    from src.training.progress import progress_bars
    from src.training.trainer import instantiate_trainer

    if cfg.flow_folder and not cfg.videos:
        raise UserError(f"flow={cfg.flow_folder} is of other videos: give them as videos=<folder>")
    videos = TestVideos(cfg.videos, cfg.flow_folder) if cfg.videos else None
    output = cfg.output or scores_beside(cfg.ckpt_path, cfg.videos)
    changes: Any = OmegaConf.to_container(cfg.data)
    protocol: Any = OmegaConf.to_container(cfg.protocol)
    trainer = instantiate_trainer(cfg.trainer, callbacks=progress_bars(cfg.trainer, "test"))
    result = evaluate_checkpoint(cfg.ckpt_path, changes, trainer, output, protocol, videos)
    if trainer.is_global_zero:
        show_results([result], f"{cfg.ckpt_path}: video level")
        print(f"scores of every video: {output}")
        print(f"what is taken for what: {confusion_beside(output)}")


if __name__ == "__main__":
    main()
