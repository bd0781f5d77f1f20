"""The project's configs, composed: inside a command, or outside as notebooks and tests do."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from src.experiment.sweeps import job_folder, sweep_folder, swept_keys

_SRC = Path(__file__).resolve().parents[1]
CONF_DIR = _SRC / "conf"  # of an installed package
if not CONF_DIR.is_dir():
    CONF_DIR = _SRC.parent / "conf"  # of a checkout


def _folder(function: str, *arguments: Any) -> Any:
    """Call a function of `src.data.folder`, which reads a folder: only if a config asks for it."""
    return hydra.utils.get_method(f"src.data.folder.{function}")(*arguments)


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
# The cache is the config's: another config asks again. Hydra hands a sweep's to its jobs.
_CACHED: dict[str, Callable[..., Any]] = {
    "count_classes": functools.partial(_folder, "count_classes"),
    "fingerprint": functools.partial(_folder, "fingerprint_of"),
    "swept_keys": swept_keys,
    "sweep_folder": sweep_folder,
}
for _name, _resolver in _CACHED.items():
    OmegaConf.register_new_resolver(_name, _resolver, replace=True, use_cache=True)


def compose_config(name: str, *overrides: str) -> DictConfig:
    """Compose one of the project's configs, within a command or, as notebooks do, without one."""
    arguments = [without_choice(override) for override in overrides]
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(name, arguments)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return hydra.compose(name, arguments)


def without_choice(override: str) -> str:
    """`group=null` in the words in which Hydra can have it: an empty list of choices."""
    key, _, value = override.partition("=")
    empty = value == "null" and (CONF_DIR / key.split("@")[0]).is_dir()
    return f"{key}=[]" if empty else override
