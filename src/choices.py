"""Checks of arguments that are one of a few names; the message lists them."""

from collections.abc import Iterable, Sequence


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
