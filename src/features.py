"""Features of videos out of a checkpoint: what its classifiers see, averaged as in testing.

    python -m src.features ckpt_path=joint.ckpt lists=[train,test] output=features.npz
    python -m src.features ckpt_path=joint.ckpt input=my_videos output=my_videos.npz

One vector per video and stream: the pooled activations before dropout and fc, averaged over the
views and time steps of the protocol, so that fc of it is the stream's score of the video.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.cli import command
from src.utils.errors import UserError
from src.utils.values import NAMES, NULL, PATH


@command("features", ckpt_path=PATH, output=PATH, lists=NAMES, input=NAMES | NULL)
def main(cfg: DictConfig) -> None:
    """Write the features, print their shapes and the protocol."""
    from src.training.launch import run_on_all_devices

    if cfg.input is None:
        faults = run_on_all_devices(cfg, HydraConfig.get(), _extract)
    else:
        faults = _extract(cfg, ())  # files go through one device
    if faults:
        sys.exit(1)


def _extract(cfg: DictConfig, _: Sequence[str]) -> int:
    """The number of faults, not a status to end with: a rank leaves its group after a success."""
    from hydra.utils import instantiate

    from src.exporting.features import features_of_files, features_of_lists
    from src.training.progress import progress_bars
    from src.training.trainer import instantiate_trainer

    config: Any = OmegaConf.to_container(cfg, throw_on_missing=True)
    output = Path(config["output"])
    if output.suffix != ".npz":
        raise UserError(f"output={output}: needs a name that ends in .npz")
    trainer = instantiate_trainer(cfg.trainer, callbacks=progress_bars(cfg.trainer, "features"))
    ckpt_path, data, protocol = str(config["ckpt_path"]), config["data"], config["protocol"]
    if config["input"] is None:
        features = features_of_lists(ckpt_path, config["lists"], data, trainer, protocol)
    else:
        flow, device = instantiate(cfg.flow), trainer.strategy.root_device
        features = features_of_files(ckpt_path, config["input"], data, protocol, flow, device)
    if trainer.is_global_zero:
        features.save(output)
        print(f"{features}\nwritten to {output}")
        for fault in features.faults:
            print(f"skipped: {fault}", file=sys.stderr)
    return len(features.faults)


if __name__ == "__main__":
    main()
