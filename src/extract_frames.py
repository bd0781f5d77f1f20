"""Extract the RGB frames of a folder of videos as JPEG files, or as zip archives of them.

    python -m src.extract_frames input=data/hmdb51/videos output=data/hmdb51/frames
    python -m src.train experiment=appearance_hmdb51 data.rgb=data/hmdb51/frames

Training reads them faster than videos. It can be stopped and resumed as extract_flow, which can
write frames, too, in the same pass over the videos.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def extract_frames(cfg: "DictConfig") -> None:
    """Compose, extract, print a summary."""
    from src.extraction.extract import extract_folder
    from src.extraction.products import FrameSettings, Product

    products = [Product(Path(cfg.output), FrameSettings(cfg.short_side))]
    options = {"workers": cfg.workers, "format": cfg.format}
    if not extract_folder(Path(cfg.input), products, cfg.shard, **options):
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    # Imported here, because worker processes run this file again, and need none of this.
    from src.cli import command
    from src.utils.values import PATH

    command("extract_frames", input=PATH, output=PATH)(extract_frames)()


if __name__ == "__main__":
    main()
