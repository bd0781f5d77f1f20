"""Loggers that cannot fail the run that they observe."""

import logging
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)


class Guarded(Logger):
    """What comes before a logger's own class: a failure is reported once, the rest is left out."""

    entry: str  # its key in the config's logger group
    failed: set[str]  # the entries that have failed; all loggers of a run share it

    def attempt(self, act: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call what may fail because of this logger, unless something has failed before."""
        if self.entry not in self.failed:
            try:
                act(*args, **kwargs)
            except Exception as error:
                drop(self.entry, self.failed, f"{type(error).__name__}: {error}")


def drop(entry: str, failed: set[str], error: object) -> None:
    """Add an entry to those that have failed, and warn, once."""
    if entry not in failed:
        failed.add(entry)
        line = " ".join(str(error).split())
        log.warning("logger %s has failed, the run continues without it: %s", entry, line)


def _attempting(method: str) -> Callable[..., None]:
    def call(self: Guarded, *args: Any, **kwargs: Any) -> None:
        self.attempt(getattr(super(Guarded, self), method), *args, **kwargs)

    return call


for _method in (  # all that Lightning, callbacks and modules ask of a logger
    "log_metrics",
    "log_hyperparams",
    "log_graph",
    "save",
    "finalize",
    "after_save_checkpoint",
):
    setattr(Guarded, _method, _attempting(_method))


def guarded(logger: Logger, entry: str, failed: set[str]) -> Guarded:
    """The same logger, of the same class for all that look, without failures.

    Args:
        logger: any of Lightning's.
        entry: its key in the config's logger group.
        failed: gets the entry when it fails.
    """
    own: Any = type(logger)
    logger.__class__ = type(own.__name__, (Guarded, own), {})
    assert isinstance(logger, Guarded)
    logger.entry, logger.failed = entry, failed
    return logger


def attempt(logger: Logger, act: Callable[..., object], *args: Any) -> None:
    """Call `act(logger, *args)`; if the logger is guarded, a failure is the logger's own."""
    if isinstance(logger, Guarded):
        logger.attempt(act, logger, *args)
    else:
        act(logger, *args)
