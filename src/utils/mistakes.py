"""What a user can fix, as one line: mistakes in a config, in arguments, on a disk."""

import contextlib
import errno
import logging
import re
import sys
import warnings
from collections.abc import Iterator

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from src.utils.commands import in_quotes
from src.utils.errors import UserError

_OF_RESOLVERS = "UserError raised while resolving interpolation: "  # in OmegaConf's words
_NO_GROUP = "Config group override must be a string or a list"  # in Hydra's words
_LIGHTNING = "lightning_fabric.utilities.exceptions"
# What a file system refuses; other errors of the system may be bugs.
_REFUSALS = {
    errno.EACCES: "give another path, or the right to it",
    errno.EPERM: "give another path, or the right to it",
    errno.EROFS: "give a path on another file system",
    errno.EISDIR: "give the path of a file: this is a folder",
    errno.ENOTDIR: "give another path: a part of it is a file",
    errno.ENOSPC: "make room, then rerun the same command to resume",
    errno.EDQUOT: "make room, then rerun the same command to resume",
}

# In torch's words, of workers and of what they hand over.
_NO_SHARED_MEMORY = (
    "insufficient shared memory",
    "unable to write to file </torch_",
    "unable to allocate shared memory",
    "unable to open shared memory object",
    "unable to resize file </torch_",
)


def _mistakes() -> tuple[type[BaseException], ...]:
    # Whoever raises Lightning's has imported it; to import it here would bring torch along.
    lightning = sys.modules.get(_LIGHTNING)
    own = (UserError, HydraException, OmegaConfBaseException)
    return (*own, lightning.MisconfigurationException) if lightning else own


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line for a mistake or a stop by hand; bugs keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped: rerun the same command to resume", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        mistake = find_mistake(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(1)


def quieten() -> None:
    """Silence what Lightning says at every start; its warnings about the run itself stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*exists and is not empty",  # a run directory is meant to be used again
        ".*smaller than the logging interval",
        ".*LeafSpec.*deprecated",
        ".*does not have many workers",
        ".*srun. command is available",  # it need not be used
        ".*barrier.*using the device",
        ".*fp16 is not supported on CPU",  # refused by us
        ".*broadcast_buffers. is deprecated",  # its successor is not in torch 2.11
    ):
        warnings.filterwarnings("ignore", message)


def find_mistake(error: BaseException) -> str | None:
    """The line to show for an exception that the user can fix, None for a bug.

    A constructor's own complaint, ValueError or TypeError, reaches here wrapped by Hydra's
    `instantiate`: the innermost reason is the one that names the thing.
    """
    refused: BaseException | None = error
    # Logging, for one, makes something else of it; a UserError says more than its cause.
    while refused is not None and not isinstance(refused, UserError):
        if isinstance(refused, RuntimeError) and any(
            words in str(refused) for words in _NO_SHARED_MEMORY
        ):
            return (
                "worker processes have too little shared memory (/dev/shm): give the container "
                "more (docker run --shm-size=8g), or load in one process: data.loader.num_workers=0"
            )
        if isinstance(refused, OSError) and refused.errno in _REFUSALS:
            place = f"{refused.filename}: " if refused.filename else ""
            return f"{place}{refused.strerror}: {_REFUSALS[refused.errno]}"
        refused = refused.__cause__
    if isinstance(error, ValueError) and str(error).startswith(_NO_GROUP):
        return (  # Hydra does not say which
            "an argument such as data=... or trainer=... is not the name of a choice: give one of "
            "the files of conf/"
        )
    mistakes = _mistakes()
    if not isinstance(error, mistakes):
        return None
    if line := _cannot_be_read(error):
        return line
    reasons: tuple[type[BaseException], ...] = (ValueError, TypeError, *mistakes)
    while isinstance(error, HydraException) and isinstance(cause := error.__cause__, reasons):
        error = cause
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not given: add {error.full_key}=<value> to the command"
    if isinstance(error, InterpolationToMissingValueError):  # it names the key that needs the other
        key = str(error).splitlines()[0].rpartition(" ")[2]
        return f"{key} is not given: add {key}=<value> to the command"
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)) and error.full_key:
        return f"{error.full_key} is not a key of the config (+{error.full_key}=... would add one)"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        # The rest is OmegaConf's description of the node's type.
        lines = [line for line in lines if not line.startswith(("object_type", "reference_type"))]
    if lines and lines[0].startswith(_OF_RESOLVERS):
        return lines[0].removeprefix(_OF_RESOLVERS)
    return "; ".join(lines)


def _cannot_be_read(error: BaseException) -> str | None:
    """The line for an override that Hydra's grammar has no meaning for, or several."""
    lines = [line.strip() for line in str(error).splitlines()]
    if ambiguous := re.fullmatch(r"Ambiguous value for argument '(.*)'", lines[0] if lines else ""):
        key, _, value = ambiguous[1].partition("=")
        return (
            f"{ambiguous[1]}: several values are a sweep, which needs -m; a text with a comma is "
            f"written {in_quotes(ambiguous[1])}, a list {key}=[{value}]"
        )
    if not isinstance(error, OverrideParseException):
        return None
    if not re.match(r"[+~]*[\w.@/$][\w.@/$-]*=", error.override, re.ASCII):
        return f"{error.override}: not an argument, which is <key>=<value>"
    reason = lines[lines[0].startswith("Error parsing override")].partition(" expecting ")[0]
    reason = "" if reason.startswith("LexerNoViable") else f" ({reason})"  # says nothing more
    return (
        f"{error.override}: cannot be read{reason}: a text with special characters needs quotes "
        f"inside those of the shell: {in_quotes(error.override)}"
    )
