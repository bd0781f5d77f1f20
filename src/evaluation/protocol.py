"""The name of the way a number was measured: no number is printed without it."""

from collections.abc import Mapping
from typing import Any


def protocol_name(data: Mapping[str, Any]) -> str:
    """Describe the test view of a data config (ST-ResNet's, in the released implementation).

    Args:
        data: with the keys test_frames, short_side, mirror.
    """
    views = "frames + mirror" if data["mirror"] else "frames"
    return f"{data['test_frames']} whole {views} at {data['short_side']} px, mean of logits"
