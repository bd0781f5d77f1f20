"""Classify a video file or all videos in a folder.

    python -m src.predict ckpt_path=joint.ckpt input=clip.mp4
    python -m src.predict ckpt_path=joint.ckpt input=videos/ output=predictions.json flow=dis

The exit status is 1 if a video could not be read.
"""

import sys
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.cli import command


@command("predict")
def main(cfg: DictConfig) -> None:
    """Print the most probable classes of every video and write them to a file."""
    # Imported here: --help and mistakes in the config do not wait for torch.
    import torch

    from src.data.find_videos import find_videos
    from src.evaluation.predict import predict_videos, save_predictions, show_predictions

    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    predictions, failed = predict_videos(
        cfg.ckpt_path, find_videos(Path(cfg.input)), cfg.top_k, instantiate(cfg.flow), device
    )
    if predictions:
        show_predictions(predictions)
        save_predictions(predictions, Path(cfg.output))
        print(f"written to {cfg.output}")
    for reason in failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
