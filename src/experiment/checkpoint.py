"""What our checkpoints carry beside weights, and the checks that it makes possible."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from src import __version__
from src.data.datamodule import VideoDataModule
from src.experiment.config import StageConfig
from src.flow.settings import FlowSettings
from src.models.weights import read_checkpoint
from src.utils.errors import UserError

KEY = "experiment"
_KINDS = {
    "config": dict,
    "class_names": list,
    "split": int,
    "normalization": dict,
    "flow": dict | None,
    "version": str,
}


@dataclass(frozen=True)
class CheckpointMetadata:
    """All that is needed to use a checkpoint without the config it came from.

    Args:
        config: the stage's, see `src.experiment.config`.
        class_names: in the order of the logits.
        split: of the dataset.
        normalization: the numbers that uint8 input is normalized with.
        flow: how the flow was made, see `FlowSettings`; None if the network sees no flow.
        version: of this project.
    """

    config: StageConfig
    class_names: list[str]
    split: int
    normalization: dict[str, Any]
    flow: dict[str, Any] | None
    version: str = __version__

    @classmethod
    def read(cls, path: str) -> tuple[Self, dict[str, Any]]:
        """The description in a checkpoint, and the checkpoint itself."""
        content = read_checkpoint(path)
        return cls.out_of(content, path), content

    @classmethod
    def out_of(cls, content: Mapping[str, Any], path: str) -> Self:
        """The description in the content of a checkpoint.

        Raises:
            UserError: there is none, or one with other entries than ours.
        """
        if isinstance(content.get(KEY), dict) and "plan" in content[KEY]:
            raise UserError(
                f"{path} was made before version 0.1 was released, and is no longer read: train it "
                "again"
            )
        try:
            found = cls(**content[KEY])
            for name, kind in _KINDS.items():
                if not isinstance(getattr(found, name), kind):
                    raise TypeError(name)
            if not all(isinstance(name, str) for name in found.class_names):
                raise TypeError("class_names")
            if found.flow is not None:
                FlowSettings(**found.flow)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a checkpoint of this project: it has no readable {KEY!r} entry"
            ) from error
        return found

    def check_fits(self, data: VideoDataModule, source: str) -> None:
        """Refuse data that this checkpoint must not meet: another split, or other flow.

        A video of one split's train list is in another's test list, and a network reads flow of
        another algorithm wrongly, both without a sign.
        """
        if tuple(self.class_names) != data.videos.classes:
            return  # another dataset: transfer
        if self.split != data.split:
            raise UserError(
                f"{source} was trained on split {self.split}, whose training videos are among the "
                f"test videos of split {data.split}: set data.split={self.split}"
            )
        if self.flow and "flow" in data.modalities and self.flow != asdict(data.flow_made_by):
            raise UserError(
                f"{source} was trained on flow made with {self.flow}, but {data.flow_place} holds "
                f"flow made with {asdict(data.flow_made_by)}: extract it again or train again"
            )
