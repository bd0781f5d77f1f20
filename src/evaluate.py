"""Test a checkpoint on the test videos of its split.

python -m src.evaluate ckpt_path=outputs/st_resnet_two_movers/split1_seed0/joint/last.ckpt
python -m src.evaluate ckpt_path=joint.ckpt +data.dataset.root=/datasets/hmdb51
"""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.evaluation.evaluate import evaluate_checkpoint
from src.evaluation.table import show_results


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Score the test videos, print the accuracies, write scores.csv."""
    output = cfg.output or str(Path(cfg.ckpt_path).parent / "evaluation" / "scores.csv")
    changes: Any = OmegaConf.to_container(cfg.data)
    result = evaluate_checkpoint(cfg.ckpt_path, changes, instantiate(cfg.trainer), output)
    show_results([result], f"{cfg.ckpt_path}: video level")
    print(f"scores of every video: {output}")


if __name__ == "__main__":
    main()
