"""The network that is exported: uint8 clips in, logits of each stream out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from src.errors import UserError
from src.models.modules import VideoClassifier

Clips = tuple[Tensor, ...]  # one (B, C, T, H, W) of each modality
AXES = {0: "batch", 2: "frames"}  # of every clip: those that stay free


class Exportable(nn.Module):
    """A module's normalisation and network, as a function of tensors alone.

    Args:
        module: trained, in evaluation mode.
    """

    def __init__(self, module: VideoClassifier) -> None:
        super().__init__()
        self.module = module

    def forward(self, *clips: Tensor) -> Clips:
        """Logits (B, T', K) of each stream.

        Args:
            clips: (B, C, T, H, W) in 0..255 for each of the module's modalities, in their order.
        """
        batch = dict(zip(self.module.modalities, clips, strict=True))
        return tuple(self.module.logits(batch).values())


@dataclass(frozen=True)
class ClipShape:
    """The clips that an exported network takes.

    Args:
        channels: of each modality, by its name.
        size: height and width in pixels.
        dtype: of the values.
        several_frames: a T that stands for any.
        least_frames: the smallest T.
    """

    channels: dict[str, int]
    size: tuple[int, int]
    dtype: torch.dtype
    several_frames: int
    least_frames: int = 1

    @classmethod
    def of(
        cls, module: VideoClassifier, stack: int, size: tuple[int, int], dtype: torch.dtype
    ) -> "ClipShape":
        """Clips for a module.

        Args:
            module: whose modalities they have.
            stack: flow fields around a frame (L).
            size: height and width in pixels.
            dtype: of the values.
        """
        channels = {"rgb": 3, "flow": 2 * stack}
        pool = getattr(module.net, "temporal_pool", None)
        several = pool.size + 3 * pool.stride if pool else 4  # T' of 1 would stand for 1 alone
        return cls({name: channels[name] for name in module.modalities}, size, dtype, several)

    def random(self, batch: int, frames: int, seed: int = 0) -> Clips:
        """Random clips in 0..255, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.randint(
                256, (batch, channels, frames, *self.size), generator=generator, dtype=torch.uint8
            ).to(self.dtype)
            for channels in self.channels.values()
        )


def trace(network: Exportable, shape: ClipShape) -> tuple[ExportedProgram, ClipShape]:
    """The network as a graph, of clips of any number and length.

    Returns:
        The graph, and the shape with the smallest T that it takes.

    Raises:
        UserError: the network does something that no graph can hold.
    """
    free = dict.fromkeys(AXES, Dim.DYNAMIC)
    clips = shape.random(2, shape.several_frames)
    try:
        program = torch.export.export(
            network, clips, dynamic_shapes={"clips": (free,) * len(clips)}
        )
    except torch._dynamo.exc.UserError as error:
        raise UserError(
            f"{type(network.module.net).__name__} cannot be exported for any number of clips and "
            f"frames: {error}"
        ) from error
    program.example_inputs = None  # they would be saved, and may be larger than the network
    return program, replace(shape, least_frames=_least_frames(program))


def _least_frames(program: ExportedProgram) -> int:
    (clip, *_) = (
        node.meta["val"]
        for node in program.graph.find_nodes(op="placeholder")
        if node.name in program.graph_signature.user_inputs
    )
    least = int(program.range_constraints[clip.shape[2].node.expr].lower)
    return 1 if least == 2 else least  # torch says 2 of whatever has no bound


def output_names(network: Exportable, shape: ClipShape) -> Sequence[str]:
    """The streams, in the order of the outputs."""
    clips = shape.random(1, shape.several_frames)
    with torch.inference_mode():
        return list(network.module.logits(dict(zip(shape.channels, clips, strict=True))))
