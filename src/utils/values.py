"""What plain values of a config have to be, and the line that refuses others."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.utils.commands import shown_override
from src.utils.errors import UserError


@dataclass(frozen=True)
class Need:
    """A kind of value: in words, and whether a value is one."""

    words: str
    test: Callable[[Any], Any]

    def fits(self, value: Any) -> bool:
        """Whether a value, of whatever type, is of this kind."""
        try:
            return bool(self.test(value))
        except TypeError:
            return False

    def __or__(self, other: "Need") -> "Need":
        """A value of either kind."""
        return Need(f"{self.words}, or {other.words}", lambda v: self.fits(v) or other.fits(v))


def integer(least: int, most: float = math.inf) -> Need:
    """An integer, both ends included."""
    end = f" to {most}" if most < math.inf else ""
    return Need(
        f"an integer from {least}{end}",
        lambda value: type(value) is int and least <= value <= most,
    )


def number(words: str, fits: Callable[[float], bool]) -> Need:
    """A finite number for which something is so."""
    return Need(words, lambda v: type(v) in (int, float) and math.isfinite(v) and fits(v))


def one_of(*choices: str) -> Need:
    """One of a few words."""
    return Need(" or ".join(choices), lambda value: value in choices)


NULL = Need("null", lambda value: value is None)
SWITCH = Need("true or false", lambda value: isinstance(value, bool))
TEXT = Need("a text", lambda value: isinstance(value, str))
PATH = Need("a path", lambda value: isinstance(value, str) and value.strip() != "")
NAMES = Need(
    "a name or a list of names",
    lambda value: isinstance(value, Sequence) and all(isinstance(name, str) for name in value),
)


def check_values(config: Mapping[str, Any], needs: Mapping[str, Need], within: str = "") -> None:
    """Refuse the first value that is not of the kind that is needed of its key, if it is there.

    `within` is what the keys are part of, such as "trainer.".

    Raises:
        UserError: names the key, the value and what is needed.
    """
    for key, need in needs.items():
        if key not in config or need.fits(config[key]):
            continue
        value, hint = config[key], ""
        # Hydra may have taken a path or a name for something else.
        if value is not None and need.fits(str(value)):
            hint = f": write {shown_override((f'{within}{key}', str(value)))}"
        raise UserError(f"{within}{key}={_shown(value)}: needs {need.words}{hint}")


def _shown(value: Any) -> Any:
    """As it is written in a config."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return list(value) if isinstance(value, tuple) else value


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Refuse a value that is not among the choices.

    Raises:
        ValueError: names the argument, the value and the choices.
    """
    if value not in (known := list(choices)):
        raise ValueError(f"{name}={value}: choose from {', '.join(map(str, known))}")


def check_choices(name: str, values: Sequence[object], choices: Sequence[object]) -> None:
    """Refuse a list that has a value twice, or one that is not among the choices; it may be empty.

    Raises:
        ValueError: names the argument, the value and the choices.
    """
    if isinstance(values, str):
        raise ValueError(f"{name}={values}: needs a list, [{values}]")
    for value in values:
        check_choice(name, value, choices)
    if len(set(values)) < len(values):
        raise ValueError(f"{name}={list(values)}: has a value twice")
