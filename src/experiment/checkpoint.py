"""What checkpoints carry beside weights, and the checks that it makes possible."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from src import __version__
from src.data.datamodule import VideoDataModule
from src.experiment.config import StageConfig
from src.flow.settings import FlowSettings
from src.models.trust import check_size
from src.models.weights import read_checkpoint
from src.utils.errors import UserError

KEY = "experiment"
LONGEST_CLASS_NAME = 1000  # letters; lines and pictures show them


@dataclass(frozen=True)
class CheckpointMetadata:
    """All that is needed to use a checkpoint without the config it came from."""

    config: StageConfig
    class_names: list[str]  # in the order of the logits
    split: int
    normalization: dict[str, Any]  # the numbers that uint8 input is normalized with
    flow: dict[str, Any] | None  # see `FlowSettings`; None if the network sees no flow
    version: str = __version__  # of this project

    @classmethod
    def read(cls, path: str) -> tuple[Self, dict[str, Any]]:
        """The metadata in a checkpoint, and the checkpoint itself."""
        content = read_checkpoint(path)
        return cls.out_of(content, path), content

    @classmethod
    def out_of(cls, content: Mapping[str, Any], path: str) -> Self:
        """The metadata in the content of a checkpoint.

        Raises:
            UserError: there is none, it is too large, or it has other entries than these.
        """
        check_size(content.get(KEY), path)
        try:
            metadata = cls(**content[KEY])
            for value, kind in (
                (metadata.config, dict),
                (metadata.class_names, list),
                (metadata.split, int),
                (metadata.normalization, dict),
                (metadata.flow, dict | None),
                *((text, str) for text in (metadata.version, *metadata.class_names)),
            ):
                if not isinstance(value, kind):
                    raise TypeError(f"{type(value)} is no {kind}")
            if any(len(name) > LONGEST_CLASS_NAME for name in metadata.class_names):
                raise ValueError("a class has a name that cannot be shown")
            if metadata.flow is not None:
                FlowSettings(**metadata.flow)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a checkpoint of this project, or of an earlier version: it has no "
                f"readable {KEY!r} entry"
            ) from error
        return metadata

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
