"""The training step that stopped a run, in a file that it can be repeated from without data."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from src.errors import UserError
from src.models.build import build_module, build_net
from src.models.checkpoints import KEY, Description
from src.models.modules import Batch, VideoClassifier
from src.models.trust import check_trusted
from src.whole_files import whole

STEP = "failed_step"


@dataclass(frozen=True)
class FailedStep:
    """What the loss of a step depends on, beside the weights; and what it was.

    Args:
        found: what was wrong, in words.
        where: which step it was, in words.
        losses: of each stream.
        batch: as the module got it: of this process, and this part of an accumulated update.
        random: the states of torch's generators before the step, see `random_state`.
        loss_scale: what the loss was multiplied by for float16; 1 for no scaling.
        weight_of_class: of the module, see `VideoClassifier.weigh_classes`.
    """

    found: str
    where: str
    losses: dict[str, float]
    batch: Batch
    random: dict[str, Tensor]
    loss_scale: float = 1.0
    weight_of_class: Tensor | None = None

    def save(
        self,
        path: Path,
        description: Description,
        module: VideoClassifier,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Write it, with the weights and the optimiser as they are before the update.

        Of all that is saved, only running statistics of batch norm have already seen the batch; in
        training nothing depends on them.
        """
        batch = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in self.batch.items()}
        content = {
            KEY: asdict(description),
            STEP: vars(self) | {"batch": batch},
            "state_dict": module.state_dict(),
            "optimizer_states": [optimizer.state_dict()],
        }
        with whole(path) as draft:
            torch.save(content, draft)

    @classmethod
    def read(cls, path: Path) -> tuple[Self, VideoClassifier, Description]:
        """The step, the module as it was before it, and what was trained.

        Raises:
            UserError: the file is not one that `save` has written.
        """
        description, content = Description.read(str(path))
        try:
            step = cls(**content[STEP])
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} holds no step to replay: give a failed_step.ckpt") from error
        check_trusted(description.plan, str(path))
        try:
            module = build_module(description.plan, build_net(description.plan))
            module.load_state_dict(content["state_dict"])
            module.weight_of_class = step.weight_of_class
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{path} describes no network that can be built ({type(error).__name__}: {error})"
            ) from error
        return step, module, description


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators for the CPU and, if it is a GPU, for a device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Set torch's generators to what `random_state` has returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
