"""A search's trials, in a journal file that many processes may write to, network disks included."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import UserError

if TYPE_CHECKING:
    import optuna

# User attributes of a study and of its trials.
ARGUMENTS = "arguments"  # of the command line, the same for all trials
PRUNER = "pruner"
FOLDER = "folder"  # the run directory of a trial
PRUNED = "pruned"  # the pass after which a trial was ended
JOURNALS = "*.study"  # names of the files


def open_study(journal: Path, create: bool = False, **options: Any) -> "optuna.Study":
    """The only study in a journal file.

    Args:
        journal: the file, which is made if `create` says so.
        create: whether the study is made where there is none.
        options: a sampler, a pruner, the direction.

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
    if create:
        return optuna.create_study(storage=storage, study_name=name, load_if_exists=True, **options)
    options.pop("direction", None)
    try:
        return optuna.load_study(storage=storage, study_name=name, **options)
    except (KeyError, ValueError) as error:  # of lines that are no journal, too
        raise UserError(f"{journal} holds no study of that name: {error}") from error


def choose(module: Any, name: str, options: Mapping[str, Any], key: str) -> Any:
    """Build a sampler or a pruner of Optuna; `key` is that of its name.

    Raises:
        UserError: there is no such class, or it does not take these arguments.
    """
    known = [one for one in module.__all__ if one[0].isupper() and not one.startswith("Base")]
    if name not in known:
        raise UserError(f"{key}={name}: choose from {', '.join(known)}")
    try:
        return getattr(module, name)(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}_options: {error}") from error


def values_of(params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides; numbers are rounded, for the sake of directories' names."""
    return [
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    ]
