"""Check a dataset against its lists, and write the manifest that training uses.

    python -m src.verify_data data=hmdb51
    python -m src.verify_data data=hmdb51 full=true workers=8
    python -m src.verify_data data=folder data.dataset.root=my_videos
    python -m src.verify_data data=ucf101 data.dataset.root=/data/ucf101 data.flow=flow.zip.001

It can be stopped at any time: the same command continues with the videos that are not checked yet,
and later looks only at those that have changed. The exit status is 1 if a video that is missing or
broken would stop training.
"""

import sys

from hydra.utils import instantiate
from omegaconf import DictConfig

from src.cli import command
from src.utils.errors import UserError


@command("verify_data")
def main(cfg: DictConfig) -> None:
    """Compose, verify, print and keep the report."""
    if "data" not in cfg:
        raise UserError(
            "data is not given: add data=hmdb51, data=ucf101 or data=folder to the command"
        )

    from src.data.verification.report import report, write_report
    from src.data.verification.verify import verify

    data = cfg.data
    reading = instantiate(data.videos)  # its values are checked before anything is read
    verification = verify(
        instantiate(data.dataset),
        rgb=data.rgb,
        flow=data.flow,
        stack=data.flow_stack,
        manifest=cfg.manifest,
        decoder=reading.decoder,
        cache_dir=reading.cache_dir,
        full=cfg.full,
        recheck=cfg.recheck,
        workers=cfg.workers,
        timeout=cfg.timeout,
    )
    print(report(verification))
    print(f"all names in {write_report(verification)}")
    if verification.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
