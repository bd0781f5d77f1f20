"""Small networks with features everywhere, and clips for them."""

from typing import Any

import torch

from src.evaluation.protocol import TestProtocol
from src.models.connection import ADDITIVE, Connection
from src.models.modules import Batch, JointModule, StreamModule, VideoClassifier
from src.models.normalize import Normalize
from src.models.resnet import appearance_stream, motion_stream
from src.models.two_stream import TwoStreamResNet
from tests.helpers import randomise

CLASSES, STACK, FRAMES, SIDE = 3, 2, 3, 96


def module(kind: str, connection: Connection = ADDITIVE, **options: Any) -> VideoClassifier:
    """A stream alone ("rgb", "flow") or a joint net ("joint") of random weights, in float64."""
    rgb, flow = appearance_stream(CLASSES, 26, 4), motion_stream(CLASSES, STACK, 26, 4)
    arguments: dict[str, Any] = {
        "normalize": Normalize(),
        "num_classes": CLASSES,
        "protocol": TestProtocol(FRAMES, SIDE, SIDE),
    }
    made: VideoClassifier
    if kind == "joint":
        made = JointModule(TwoStreamResNet(rgb, flow, connection, **options), **arguments)
    else:
        made = StreamModule(kind, rgb if kind == "rgb" else flow, **arguments)
    randomise(made.net)
    return made.double().eval()


def clips(count: int = 2) -> Batch:
    """A labelled uint8 batch."""
    size = (FRAMES, SIDE, SIDE)
    return {
        "rgb": torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (count, 2 * STACK, *size), dtype=torch.uint8),
        "label": torch.arange(count) % CLASSES,
        "video": [f"video_{number}" for number in range(count)],
    }
