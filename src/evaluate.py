"""Test a checkpoint on the test videos of its split.

python -m src.evaluate ckpt_path=outputs/st_resnet_two_movers/split1_seed0/joint/last.ckpt
python -m src.evaluate ckpt_path=joint.ckpt +data.dataset.root=/datasets/hmdb51
python -m src.evaluate ckpt_path=joint.ckpt protocol=ten_crops protocol.average=softmax
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from src.cli import command
from src.evaluation.evaluate import evaluate_checkpoint, scores_beside
from src.evaluation.table import Result, show_results
from src.training.trainer import instantiate_trainer


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Score the test videos, print the accuracies, write scores.csv."""
    output = cfg.output or scores_beside(cfg.ckpt_path)
    changes: Any = OmegaConf.to_container(cfg.data)
    protocol: Any = OmegaConf.to_container(cfg.protocol)
    trainer = instantiate_trainer(cfg.trainer)
    result = evaluate_checkpoint(cfg.ckpt_path, changes, trainer, output, protocol)
    _report(result, cfg.ckpt_path, output)


@rank_zero_only
def _report(result: Result, ckpt_path: str, output: str) -> None:
    show_results([result], f"{ckpt_path}: video level")
    print(f"scores of every video: {output}")


if __name__ == "__main__":
    main()
