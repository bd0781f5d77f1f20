"""What entry points share: compose a config, call one function, show a mistake as one line."""

import contextlib
import errno
import functools
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from src.experiment.config import sweep_subdir
from src.utils.commands import expand_home, in_quotes
from src.utils.errors import UserError
from src.utils.values import Need, check_values

log = logging.getLogger(__name__)
CONF_DIR = Path(__file__).resolve().parent.parent / "conf"
FULL_ERROR = "HYDRA_FULL_ERROR"  # the variable that Hydra's own messages name
QUEUED = "SUBMITIT_EXECUTOR"  # the variable that submitit sets in the jobs of a queue
_OF_RESOLVERS = "UserError raised while resolving interpolation: "  # in OmegaConf's words
_NO_GROUP = "Config group override must be a string or a list"  # in Hydra's words
_LIGHTNING = "lightning_fabric.utilities.exceptions"
# Keys of the config that had another name, in the config of a stage, too.
RENAMED = {
    "data.num_workers": "data.loader.num_workers",
    "data.prefetch": "data.loader.prefetch_factor",
    "data.timeout": "data.loader.timeout",
    "data.start_method": "data.loader.multiprocessing_context",
    "data.test_frames": "data.test.frames",
    "data.test_batch_size": "data.test.batch_size",
    "data.test_part": "data.test.part",
    "data.decoder": "data.videos.decoder",
    "data.cache_dir": "data.videos.cache_dir",
    "data.manifest": "data.videos.manifest",
    "data.missing": "data.videos.missing",
    "data.max_broken": "data.videos.max_unreadable_fraction",
}
# What a file system refuses; other errors of the system may be bugs.
_REFUSALS = {
    errno.EACCES: "give another path, or the right to it",
    errno.EPERM: "give another path, or the right to it",
    errno.EROFS: "give a path on another file system",
    errno.EISDIR: "give the path of a file: this is a folder",
    errno.ENOTDIR: "give another path: a part of it is a file",
    errno.ENOSPC: "make room, then the same command goes on",
    errno.EDQUOT: "make room, then the same command goes on",
}


def _mistakes() -> tuple[type[BaseException], ...]:
    # Whoever raises Lightning's has imported it; to import it here would bring torch along.
    lightning = sys.modules.get(_LIGHTNING)
    own = (UserError, HydraException, OmegaConfBaseException)
    return (*own, lightning.MisconfigurationException) if lightning else own


def _folder(function: str, *arguments: Any) -> Any:
    """Call a function of `src.data.folder`, which reads a folder: only if a config asks for it."""
    return hydra.utils.get_method(f"src.data.folder.{function}")(*arguments)


OmegaConf.register_new_resolver("sweep_subdir", sweep_subdir, replace=True)
for _name, _function in (("count_classes", "count_classes"), ("fingerprint", "fingerprint_of")):
    # The cache is the config's: another config asks again.
    OmegaConf.register_new_resolver(
        _name, functools.partial(_folder, _function), replace=True, use_cache=True
    )


def compose_config(name: str, *overrides: str) -> DictConfig:
    """Compose one of the project's configs outside of a command, as notebooks and tests do."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return hydra.compose(name, overrides=[_without_choice(one) for one in overrides])


def check_renamed(overrides: Iterable[str]) -> None:
    """Refuse an override of a key that has another name now.

    Raises:
        UserError: names both.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        stage = re.match(r"[+~]*(stages\.[^.]+\.)?", key)
        old = key[stage.end() :] if stage else key
        if old in RENAMED:
            new = f"{key.removesuffix(old)}{RENAMED[old]}"
            raise UserError(f"{key}: is called {new.lstrip('+~')} now: give {new}={value}")


def _without_choice(override: str) -> str:
    """`group=null` in the words in which Hydra can have it: an empty list of choices."""
    key, _, value = override.partition("=")
    empty = value == "null" and (CONF_DIR / key.split("@")[0]).is_dir()
    return f"{key}=[]" if empty else override


def command(
    config_name: str, **needs: Need
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of one config into a command line with Hydra overrides.

    Args:
        config_name: of the config.
        needs: what the values of its keys have to be.

    A mistake in the config or the input is printed as one line and ends the process with status 1;
    `HYDRA_FULL_ERROR=1` shows the traceback instead.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def main() -> None:
            quieten()
            sys.argv[1:] = [_without_choice(expand_home(one)) for one in sys.argv[1:]]
            asked_for_traceback = bool(os.environ.get(FULL_ERROR))

            def task(cfg: DictConfig) -> Any:
                if asked_for_traceback:
                    return function(cfg)
                hydra_cfg = HydraConfig.get()
                os.environ.pop(FULL_ERROR, None)  # not for the processes that a task starts
                try:
                    with errors_of(hydra_cfg, search=bool(cfg.get("trial"))):
                        if hydra_cfg.job.chdir:
                            raise UserError(
                                "hydra.job.chdir=true: paths are relative to the folder that a "
                                "command is called in, leave it away"
                            )
                        check_values(cfg, needs)
                        return function(cfg)
                finally:
                    os.environ[FULL_ERROR] = "1"

            decorated = hydra.main(
                version_base="1.3", config_path=str(CONF_DIR), config_name=config_name
            )(functools.wraps(function)(task))
            if asked_for_traceback:
                check_renamed(sys.argv[1:])
                decorated()
                return
            os.environ[FULL_ERROR] = "1"  # so that mistakes in composing come as exceptions
            try:
                with one_line_errors():
                    check_renamed(sys.argv[1:])
                    decorated()
            finally:
                os.environ.pop(FULL_ERROR, None)

        return main

    return decorate


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line for a mistake or a stop by hand; bugs keep their traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        mistake = find_mistake(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(1)


def errors_of(job: HydraConf, search: bool) -> AbstractContextManager[None]:
    """What becomes of a job's errors: other jobs of its sweep go on, a single run ends.

    Args:
        job: Hydra's config of the job.
        search: whether the sweep is a search, which tells what became of its jobs.
    """
    if QUEUED in os.environ:
        return errors_for_the_queue()
    if job.mode != RunMode.MULTIRUN:
        return one_line_errors()  # Hydra would announce an error before handing it on
    return contextlib.nullcontext() if search else errors_told_at_once(job.job.num)


@contextlib.contextmanager
def errors_told_at_once(job: int) -> Iterator[None]:
    """Log that a job has failed, and hand its error on; Hydra keeps it until all have run."""
    try:
        yield
    except Exception as error:
        mistake = find_mistake(error)
        line = f"job {job} of the sweep failed: {mistake or f'{type(error).__name__}: {error}'}"
        log.error(line)
        if mistake is None:
            raise
        raise UserError(line) from None


@contextlib.contextmanager
def errors_for_the_queue() -> Iterator[None]:
    """Hand errors on to whoever waits for this job; the job's own log has them whole."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        mistake = find_mistake(error)
        if mistake is None:
            raise
        raise UserError(mistake) from None  # the same line without what cannot travel


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
    """The line to show for an exception that the user can mend, None for a bug.

    A constructor's own complaint, ValueError or TypeError, reaches here wrapped by Hydra's
    `instantiate`: the innermost reason is the one that names the thing.
    """
    refused: BaseException | None = error
    # Logging, for one, makes something else of it; a UserError says more than its cause.
    while refused is not None and not isinstance(refused, UserError):
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
