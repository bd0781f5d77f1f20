"""Commands that are shown to be copied: quoted for Hydra's override grammar, then for the shell."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

# One that was typed, which Hydra can read as it is, or a key and its text or list of texts.
Shown = str | tuple[str, str | Path | Sequence[str | Path]]


def shown_command(module: str, *overrides: Shown) -> str:
    """The command line of an entry point such as "evaluate" that can be pasted into a shell."""
    return " ".join(["python", "-m", f"src.{module}", *map(shown_override, overrides)])


def shown_override(override: Shown) -> str:
    """An argument that can be pasted into a shell.

    For what was typed the shell's quotes are enough; a key's value means the very text that it is.
    """
    if isinstance(override, tuple):
        key, value = override
        if isinstance(value, Sequence) and not isinstance(value, str):
            override = f"{key}=[{','.join(in_hydra(str(text)) for text in value)}]"
        else:
            override = f"{key}={in_hydra(str(value))}"
    return shlex.quote(override)


def in_hydra(text: str) -> str:
    """A text as Hydra's override grammar writes it, with quotes if it needs them."""
    # OmegaConf reads the result, in which \${ is no interpolation.
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # A list of it has to be read as well: there, more has a meaning than by itself.
    plain = escaped == text and _parsed(f"k={text}") == text and _parsed(f"k=[{text}]") == [text]
    return text if plain else QuotedString(escaped, Quote.double).with_quotes()


def _parsed(override: str) -> object:
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:
        return None


def in_quotes(override: str) -> str:
    """What to type in place of an override whose value is a text, or a list of texts."""
    key, _, value = override.partition("=")
    if value.startswith("[") and value.endswith("]"):
        return shown_override((key, [text.strip(" \"'") for text in value[1:-1].split(",")]))
    return shown_override((key, value.strip("\"'")))


def expand_home(override: str) -> str:
    """An override in which `~` at the beginning of a value is the home directory.

    A shell expands it at the beginning of an argument alone, and Hydra does not know it.
    """
    return re.sub(r"""(?<=[=\[,"'])~(?=[/,\]"']|$)""", lambda _: str(Path.home()), override)
