"""A module or a net in another state for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from src.models.two_stream import TwoStreamResNet


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode; each of its parts is then as it was."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode


@contextlib.contextmanager
def connected_by(net: TwoStreamResNet, connection: Any) -> Iterator[None]:
    """With another connection; no weight belongs to one."""
    own = net.connection
    net.connection = connection
    try:
        yield
    finally:
        net.connection = own
