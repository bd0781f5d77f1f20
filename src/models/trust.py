"""What a checkpoint from a stranger may ask for: constructors of networks and their data, no more.

A config is built by calling what its `_target_` entries name, so whoever writes a checkpoint
chooses what is called, and with what. A prefix of names is not enough: this project has functions
that write files, too. Users' own networks, datasets, crops, ... in `src.models` and `src.data` are
recognized by their kind, and need to be named nowhere.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import import_module
from inspect import isclass, isfunction
from types import NoneType
from typing import Any, get_type_hints

import pytorch_lightning as pl
from torch import nn

from src.data.videos import Split
from src.utils.errors import UserError

_ROOMS = ("src.data.", "src.models.")
_ELSEWHERE = ("src.evaluation.protocol.TestProtocol", "src.flow.settings.FlowSettings")
_TRANSFORMS = "torchvision.transforms.v2"  # of colors, which are modules without weights
_PLAIN = (str, int, float, bool, NoneType)
_DEEPEST = 32  # dictionaries and lists within each other; a pickle may even hold itself
_LARGEST = 2_000_000  # values and letters; descriptions of real networks have some 10,000


def check_size(node: Any, source: str) -> None:
    """Refuse a description that is too large to be walked through and built from.

    What is in several places counts in each: a few bytes may hold one list twice, and that twice,
    and so on.

    Raises:
        UserError: it has more than two million values and letters.
    """
    left, waiting = _LARGEST, [node]
    while waiting:
        value = waiting.pop()
        left -= 1 + (len(value) if isinstance(value, str | bytes) else 0)
        if left < 0:
            raise UserError(
                f"{source} describes itself in more than {_LARGEST:,} values and letters: "
                "it is no checkpoint of this project, or was changed"
            )
        if isinstance(value, Mapping):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value


def check_trusted(node: Any, source: str = "this checkpoint", depth: int = 0) -> None:
    """Refuse a config, or a part of it, that calls more than constructors of networks and data.

    Allowed are modules, data modules and dataclasses, and functions that say that they return a
    network or a `Split`.

    Raises:
        UserError: names the source of the config and what it asks for.
    """
    if depth > _DEEPEST:
        raise UserError(f"{source} has a config without an end")
    if type(node) is dict:
        target = node.get("_target_")
        if "_target_" in node and not _is_trusted(target):
            if isinstance(target, str) and target.startswith(_ROOMS):
                raise UserError(
                    f"{source} asks to call {target}, but may name only modules, dataclasses, and "
                    "functions annotated to return a network or a Split"
                )
            raise UserError(f"{source} asks to call {target}, which is not of this project")
        parts = [*node, *node.values()]
    elif type(node) is list:
        parts = node
    elif type(node) not in _PLAIN:  # Hydra makes lists of tuples, but nobody has looked into them
        raise UserError(
            f"{source} has a {type(node).__name__} in its config, which is no plain value"
        )
    elif isinstance(node, str) and "${" in node:  # resolved, it could become another `_target_`
        raise UserError(f"{source} has {node!r} in its config, which is not resolved")
    else:
        return
    for part in parts:
        check_trusted(part, source, depth + 1)


def _is_trusted(target: Any) -> bool:
    if not isinstance(target, str):
        return False
    module, _, name = target.rpartition(".")
    transform = module == _TRANSFORMS
    if not (target.startswith(_ROOMS) or target in _ELSEWHERE or transform):
        return False
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return False
    # Made there: not what a module of ours has imported.
    home = str(getattr(made, "__module__", None))
    if name.startswith("_") or (home.rpartition(".")[0] if transform else home) != module:
        return False
    if isfunction(made):
        try:
            returned = get_type_hints(made).get("return")
        except NameError:  # names that only a type checker knows
            return False
        return isclass(returned) and issubclass(returned, (nn.Module, Split))
    return isclass(made) and (
        issubclass(made, (nn.Module, pl.LightningDataModule)) or is_dataclass(made)
    )
