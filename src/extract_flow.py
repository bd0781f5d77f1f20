"""Extract the optical flow of a folder of videos as JPEG files, or as zip archives of them.

    python -m src.extract_flow input=data/hmdb51/videos output=data/hmdb51/tvl1_flow
    python -m src.extract_flow input=data/hmdb51/videos output=data/hmdb51/dis_flow flow=dis
    python -m src.extract_flow input=data/ucf101/videos output=data/ucf101/tvl1_flow format=zip
    python -m src.extract_flow input=clip.avi output=flow flow=dis flow.parameters.finest_scale=0

It can be stopped at any time: rerun the same command to extract the videos that are not there yet.
Of format=zip those in complete archives of 200 videos are there.
The exit status is 1 if a video failed; which ones and why is in failed.csv beside the flow.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def extract(cfg: "DictConfig") -> None:
    """Compose, extract, print a summary."""
    from hydra.utils import instantiate

    from src.extraction.extract import extract_flow
    from src.extraction.shards import read_shard
    from src.flow.settings import FILE_NAME
    from src.media.find_videos import find_videos
    from src.utils.errors import visible

    source, output = Path(cfg.input), Path(cfg.output)
    result = extract_flow(
        find_videos(source),
        output,
        instantiate(cfg.flow),
        workers=cfg.workers,
        format=cfg.format,
        shard=read_shard(cfg.shard),
        device=cfg.device,
    )
    for name, reason in result.failed.items():
        print(f"failed: {visible(name)}: {reason}")
    print(
        f"flow of {result.done} videos extracted, {result.reused} already there, "
        f"{len(result.failed)} failed; {result.frames} frames in {result.seconds:.1f} s, "
        f"{result.frames / result.seconds:.1f} frames/s"
    )
    print(f"flow in {output}, its settings in {output / FILE_NAME}")
    if result.failed:
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    # Imported here, because worker processes run this file again, and need none of this.
    from src.cli import command
    from src.utils.values import PATH

    command("extract_flow", input=PATH, output=PATH)(extract)()


if __name__ == "__main__":
    main()
