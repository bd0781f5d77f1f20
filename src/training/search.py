"""A search by Optuna: its journal of trials, and how one is pruned or fails alone.

The journal is a file that many processes may write to, network disks included.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.utils.errors import UserError

if TYPE_CHECKING:
    import optuna

# User attributes of a study and of its trials.
ARGUMENTS = "arguments"  # of the command line, the same for all trials
PRUNER = "pruner"
FOLDER = "folder"  # the run directory of a trial
PRUNED = "pruned"  # the epoch after which a trial was ended
JOURNALS = "*.study"  # names of the files


def open_study(journal: Path, direction: str | None = None) -> "optuna.Study":
    """The only study in a journal file; with a direction it is made if there is none.

    Raises:
        UserError: Optuna is not installed, or the file holds no study.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("a search needs Optuna: pip install -e '.[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(journal))
    )
    name = journal.stem
    if direction:
        return optuna.create_study(
            storage=storage, study_name=name, direction=direction, load_if_exists=True
        )
    try:
        return optuna.load_study(storage=storage, study_name=name)
    except (KeyError, ValueError) as error:  # of lines that are no journal, too
        raise UserError(f"{journal} holds no study of that name: {error}") from error


def choose(module: Any, name: str, options: Mapping[str, Any], key: str) -> Any:
    """Build a sampler or a pruner of Optuna; `key` is that of its name.

    Raises:
        UserError: there is no such class, or it does not take these arguments.
    """
    known = [n for n in module.__all__ if n[0].isupper() and not n.startswith("Base")]
    if name not in known:
        raise UserError(f"{key}={name}: choose from {', '.join(known)}")
    try:
        return getattr(module, name)(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}_options: {error}") from error


def values_of(params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides; numbers are rounded, for the sake of directories' names."""
    texts = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in params.items()}
    return [f"{key}={text}" for key, text in texts.items()]


@contextlib.contextmanager
def fails_alone() -> Iterator[None]:
    """Make the end of a job's processes by a mistake an exception, after which a sweep continues.

    Raises:
        UserError: instead of `SystemExit`, but for an end by a signal.
    """
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.code, int) or stop.code >= 128:
            raise
        raise UserError("its processes ended with the error above") from stop
