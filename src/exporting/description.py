"""What users of an exported network have to know, for its metadata and the file beside it."""

import json
from collections.abc import Sequence
from typing import Any

from src.experiment.checkpoints import Description
from src.exporting.network import ClipShape
from src.models.modules import VideoProtocol


def describe(
    description: Description, protocol: VideoProtocol, shape: ClipShape, streams: Sequence[str]
) -> dict[str, Any]:
    """All that a checkpoint tells about its use, plain.

    Args:
        description: of the checkpoint.
        protocol: that it is tested by.
        shape: of the clips that the network takes.
        streams: the names of its outputs.
    """
    height, width = shape.size
    value_type = str(shape.dtype).removeprefix("torch.")
    return {
        "experiment": description.config.get("name"),
        "stage": description.config.get("stage"),
        "inputs": {
            name: {"shape": ["batch", channels, "frames", height, width], "type": value_type}
            for name, channels in shape.channels.items()
        },
        "values": "0..255, normalised inside; flow as u1, v1, u2, v2, ...",
        "least_frames": shape.least_frames,
        "outputs": {stream: ["batch", "time", len(description.class_names)] for stream in streams},
        "scores": "logits; a clip's score is their mean over time and outputs",
        "class_names": description.class_names,
        "normalisation": description.normalisation,
        "flow": description.flow,
        "split": description.split,
        "protocol": protocol.name,
        "remark": description.config.get("remark"),
        "version": description.version,
    }


def as_texts(content: dict[str, Any]) -> dict[str, str]:
    """The same for metadata that hold nothing but texts: what is none is written as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in content.items()
    }
