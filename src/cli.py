"""What entry points share: compose a config, call one function, show a mistake as one line.

Their own imports of the rooms below stand in functions: --help and mistakes in the config do not
wait for torch.
"""

import argparse
import contextlib
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.experiment.compose import CONF_DIR, without_choice
from src.utils.commands import expand_home
from src.utils.errors import UserError
from src.utils.mistakes import find_mistake, one_line_errors, quieten
from src.utils.values import Need, check_values

log = logging.getLogger(__name__)
FULL_ERROR = "HYDRA_FULL_ERROR"  # the variable that Hydra's own messages name
QUEUED = "SUBMITIT_EXECUTOR"  # the variable that submitit sets in the jobs of a queue


def accept_lazy_help() -> None:
    """Have argparse take a help text that is no string, as Hydra 1.3 has one, made when shown.

    From Python 3.14 on it looks into all of them at once, and refuses such a one.
    """
    check = argparse.ArgumentParser._check_help  # type: ignore[attr-defined]

    def check_text(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        if isinstance(action.help, str):
            check(parser, action)

    argparse.ArgumentParser._check_help = check_text  # type: ignore[attr-defined]


if hydra.__version__.startswith("1.3.") and hasattr(argparse.ArgumentParser, "_check_help"):
    accept_lazy_help()


def command(
    config_name: str, **needs: Need
) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of one config into a command line with Hydra overrides.

    A mistake in the config, whose values have to be what is needed of them, or in the input is one
    printed line and status 1; `HYDRA_FULL_ERROR=1` shows the traceback instead.
    """

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def main() -> None:
            quieten()
            sys.argv[1:] = [without_choice(expand_home(argument)) for argument in sys.argv[1:]]
            asked_for_traceback = bool(os.environ.get(FULL_ERROR))

            @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)
            @functools.wraps(function)
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

            if asked_for_traceback:
                task()
                return
            os.environ[FULL_ERROR] = "1"  # so that mistakes in composing come as exceptions
            try:
                with one_line_errors():
                    task()
            finally:
                os.environ.pop(FULL_ERROR, None)

        return main

    return decorate


def errors_of(job: HydraConf, search: bool) -> AbstractContextManager[None]:
    """What becomes of a job's errors: other jobs of its sweep continue, a single run ends.

    The jobs of a search hand them on: it tells what became of them.
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
    """Hand errors on to whoever waits for this job; the job's own log has them in full."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        mistake = find_mistake(error)
        if mistake is None:
            raise
        raise UserError(mistake) from None  # the same line without what cannot travel
