"""What can be wrong with a sweep that is to be queued, found before anything is queued."""

from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.cli import one_line_errors
from src.errors import UserError

PLUGIN = "hydra_plugins.hydra_submitit_launcher"
FIXED = ("trainer", "trainer.devices", "trainer.num_nodes")


class CheckQueue(Callback):
    """Hydra calls it before the first job of `hydra/launcher=slurm`; a mistake ends the process."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a single run, which Hydra would run right here."""
        with one_line_errors():
            raise UserError("hydra/launcher=slurm queues the jobs of a sweep: add -m")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a whole sweep."""
        with one_line_errors():  # Hydra would make a warning of an exception
            check_queue(config)


def check_queue(config: DictConfig) -> None:
    """Check that what starts the tasks is here, and that they fit the trainer.

    Args:
        config: of the sweep, Hydra's own part included.

    Raises:
        UserError: they do not, or some job of the sweep might have another trainer.
    """
    if not _installed():
        raise UserError(
            "hydra/launcher=slurm needs hydra-submitit-launcher, which is not installed: "
            'pip install -e ".[slurm]"'
        )
    params = config.hydra.sweeper.get("params") or {}
    given = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    for override in OverridesParser.create().parse_overrides(given):
        if override.is_sweep_override() and override.key_or_group in FIXED:
            raise UserError(
                f"{override.key_or_group} is swept, but all jobs of a queue have the same tasks: "
                "queue a sweep for each of its values"
            )
    launcher, trainer = config.hydra.launcher, config.trainer
    for key, wanted in (("devices", "tasks_per_node"), ("num_nodes", "nodes")):
        if not isinstance(trainer[key], int):
            raise UserError(
                f"trainer.{key}={trainer[key]}: hydra/launcher=slurm has to know how many, give a "
                f"number"
            )
        if launcher[wanted] != trainer[key]:
            raise UserError(
                f"hydra.launcher.{wanted}={launcher[wanted]} does not fit trainer.{key}="
                f"{trainer[key]}: one task per device, leave hydra.launcher.{wanted} away"
            )


def _installed() -> bool:
    try:
        return find_spec(PLUGIN) is not None
    except ModuleNotFoundError:  # no plugin of Hydra at all
        return False
