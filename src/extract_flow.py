"""Extract the optical flow of a folder of videos as JPEG files.

    python -m src.extract_flow input=data/hmdb51/videos output=data/hmdb51/tvl1_flow
    python -m src.extract_flow input=data/hmdb51/videos output=data/hmdb51/dis_flow flow=dis
    python -m src.extract_flow input=clip.avi output=flow flow=dis flow.parameters.finest_scale=0

It can be stopped at any time: the same command goes on with the videos that are not there yet.
The exit status is 1 if a video failed.
"""

import sys
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.cli import command
from src.flow.extract import extract_flow, find_videos
from src.flow.settings import FILE_NAME


@command("extract_flow")
def main(cfg: DictConfig) -> None:
    """Compose, extract, print a summary."""
    source, output = Path(cfg.input), Path(cfg.output)
    result = extract_flow(find_videos(source), output, instantiate(cfg.flow), cfg.workers)
    for name, reason in result.failed.items():
        print(f"failed: {name}: {reason}")
    print(
        f"flow of {result.done} videos extracted, {result.reused} already there, "
        f"{len(result.failed)} failed; {result.frames} frames in {result.seconds:.1f} s, "
        f"{result.frames_per_second:.1f} frames/s"
    )
    print(f"flow in {output}, its settings in {output / FILE_NAME}")
    if result.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
