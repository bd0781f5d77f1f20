"""The networks of an experiment in tables: `python -m src.train experiment=... debug=summary`.

Nothing is read, computed or written.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_summary import ModelSummary
from torch import Tensor

from src.experiment.config import StageConfig
from src.models.modules import VideoClassifier
from src.models.resnet import ResNet
from src.training.checks import module_without_data

CONVENTION = """\
Sizes are of one clip, with its frames in the place of a batch: frames x channels x height x width.
FLOPs are of one clip, forwards; a product and a sum are 2."""


class _OneClip(pl.LightningModule):
    """A stage's network that is given a training clip, on the meta device."""

    def __init__(self, module: VideoClassifier, batch: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = module.net
        self._logits = module.logits
        self.example_input_array = (batch,)
        self.to("meta")

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._logits(batch)


def summarize(configs: Mapping[str, StageConfig]) -> None:
    """Print the network of every chosen stage, for the stage's own clips.

    Raises:
        UserError: a network does not take the clips.
    """
    for name, config in configs.items():
        module, batch = module_without_data(config)
        time, height, width = next(iter(batch.values())).shape[2:]
        print(f"{name}: {', '.join(batch)}, clips of {time} x {height} x {width}")
        depth = 2 if isinstance(module.net, ResNet) else 4  # units of streams are called one by one
        print(ModelSummary(_OneClip(module, batch), max_depth=depth))
        for key in ("connection", "temporal_pool"):
            choice = getattr(module.net, key, None)
            if is_dataclass(choice) and not isinstance(choice, type):
                print(f"{key}: {', '.join(f'{k}={v}' for k, v in asdict(choice).items())}")
        print()
    print(CONVENTION)
