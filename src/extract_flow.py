"""Extract the optical flow of a folder of videos as JPEG files, or as zip archives of them.

    python -m src.extract_flow input=data/hmdb51/videos output=data/hmdb51/tvl1_flow
    python -m src.extract_flow input=data/hmdb51/videos output=data/hmdb51/dis_flow flow=dis
    python -m src.extract_flow input=data/ucf101/videos output=data/ucf101/tvl1_flow format=zip
    python -m src.extract_flow input=clip.avi output=flow flow=dis flow.parameters.finest_scale=0
    python -m src.extract_flow input=videos output=flow frames=frames    as extract_frames, at once

It can be stopped at any time: rerun the same command to extract the videos that are not there yet.
Of format=zip those in complete archives of 200 videos are there.
The exit status is 1 if a video failed; which ones and why is in failed.csv beside the flow.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def extract_flow(cfg: "DictConfig") -> None:
    """Compose, extract, print a summary."""
    from hydra.utils import instantiate

    from src.extraction.extract import extract_folder
    from src.extraction.products import FrameSettings, Product

    products = [Product(Path(cfg.output), instantiate(cfg.flow))]
    if cfg.frames is not None:
        products.append(Product(Path(cfg.frames), FrameSettings(cfg.frames_short_side)))
    options = {"workers": cfg.workers, "format": cfg.format, "device": cfg.device}
    if not extract_folder(Path(cfg.input), products, cfg.shard, **options):
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    # Imported here, because worker processes run this file again, and need none of this.
    from src.cli import command
    from src.utils.values import NULL, PATH

    command("extract_flow", input=PATH, output=PATH, frames=NULL | PATH)(extract_flow)()


if __name__ == "__main__":
    main()
