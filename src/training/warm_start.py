"""Where a stage's weights come from: an earlier stage, a checkpoint, ImageNet, or chance."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from src.data.datamodule import VideoDataModule
from src.errors import UserError
from src.models.build import Plan
from src.models.checkpoints import KEY, Description
from src.models.weights import imagenet_weights, load_weights, net_weights, read_checkpoint
from src.training.run_dir import StageDir

log = logging.getLogger(__name__)


def sources(plan: Plan) -> dict[str, str | None]:
    """Where each part of the net starts from; the whole net is the part ""."""
    source = plan["start_from"]
    return dict(source) if isinstance(source, Mapping) else {"": source}


def checkpoint_of_stage(run_dir: Path, source: str, wanted_by: str) -> Path:
    """The final checkpoint of an earlier stage of this run."""
    stage_dir = StageDir(run_dir / source)
    if stage_dir.finished() is None:
        raise UserError(
            f"stage {wanted_by} starts from stage {source}, which is not finished in {run_dir}: "
            f"run it first, or give a checkpoint as stages.{wanted_by}.start_from"
        )
    return stage_dir.checkpoint


def start_from(
    plan: Plan, stages: Sequence[str], net: nn.Module, data: VideoDataModule, run_dir: Path
) -> None:
    """Load the weights that a stage starts from, part by part, and log what became of them.

    Args:
        plan: of the stage.
        stages: names of all stages of the experiment.
        net: changed in place.
        data: set up; a checkpoint of another split or other flow is refused.
        run_dir: where earlier stages are.
    """
    for part, source in sources(plan).items():
        if source is None:
            continue
        target = net.get_submodule(part)
        if is_imagenet(source, stages):
            weights = imagenet_weights(target, source)
        else:
            if source in stages:
                source = str(checkpoint_of_stage(run_dir, source, plan["stage"]))
            content = read_checkpoint(source)
            if KEY in content:
                Description(**content[KEY]).check_fits(data, source)
            weights = net_weights(content)
        report = load_weights(target, weights, source)
        log.info("%s starts from %s: %s", part or plan["stage"], source, report)


def is_imagenet(source: str, stages: Sequence[str]) -> bool:
    """Whether a source is a name of torchvision's weights, neither a stage nor a file."""
    return source not in stages and not Path(source).suffix
