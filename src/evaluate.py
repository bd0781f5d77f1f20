"""Test a checkpoint on the test videos of its split.

python -m src.evaluate ckpt_path=outputs/st_resnet_two_movers/split1_seed0/joint/last.ckpt
python -m src.evaluate ckpt_path=joint.ckpt +data.dataset.root=/datasets/hmdb51
python -m src.evaluate ckpt_path=joint.ckpt protocol=ten_crops protocol.average_over=probabilities
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.utils.values import NULL, PATH


@command("evaluate", ckpt_path=PATH, output=PATH | NULL)
def main(cfg: DictConfig) -> None:
    """Score the test videos, print the accuracies, write scores.csv."""
    from src.training.launch import run_on_all_devices

    run_on_all_devices(cfg, HydraConfig.get(), _score)


def _score(cfg: DictConfig, _: Sequence[str]) -> None:
    from src.evaluation.evaluate import evaluate_checkpoint, scores_beside
    from src.evaluation.table import show_results
    from src.training.progress import progress_bars
    from src.training.trainer import instantiate_trainer

    output = cfg.output or scores_beside(cfg.ckpt_path)
    changes: Any = OmegaConf.to_container(cfg.data)
    protocol: Any = OmegaConf.to_container(cfg.protocol)
    trainer = instantiate_trainer(cfg.trainer, callbacks=progress_bars(cfg.trainer, "test"))
    result = evaluate_checkpoint(cfg.ckpt_path, changes, trainer, output, protocol)
    if trainer.is_global_zero:
        show_results([result], f"{cfg.ckpt_path}: video level")
        print(f"scores of every video: {output}")


if __name__ == "__main__":
    main()
