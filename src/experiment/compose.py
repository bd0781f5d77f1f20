"""The project's configs, composed: inside a command, or outside as notebooks and tests do."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from src.experiment.config import sweep_subdir
from src.utils.errors import UserError

_SRC = Path(__file__).resolve().parents[1]
CONF_DIR = _SRC / "conf"  # of an installed package
if not CONF_DIR.is_dir():
    CONF_DIR = _SRC.parent / "conf"  # of a checkout
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
    "data.stack": "data.flow_stack",
    "data.stride": "data.frame_stride",
    "data.mirror": "data.hflip",
    "only": "run_stages",
    "skip": "skip_stages",
    "remark": "notes",
    "samples": "num_sample_videos",
    "protocol.mirror": "protocol.hflip",
    "protocol.average": "protocol.average_over",
    "average": "average_over",
    "model.normalise": "model.normalize",
    "model.backbone.normalise": "model.backbone.normalize",
    "model.backbone.flavour": "model.backbone.style",
    "model.backbone.checkpointing": "model.backbone.gradient_checkpointing",
    "model.backbone.pretrained": "model.backbone.weights",
    "model.net.connection.positions": "model.net.connection.spatial",
    "model.net.temporal_filters.initial": "model.net.temporal_filters.init",
    "hydra.sweeper.trials": "hydra.sweeper.n_trials",
    "hydra.sweeper.together": "hydra.sweeper.n_jobs",
    "hydra.sweeper.failures": "hydra.sweeper.max_failures",
}


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
    """Compose one of the project's configs, within a command or, as notebooks do, without one."""
    arguments = [without_choice(override) for override in overrides]
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(name, arguments)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return hydra.compose(name, arguments)


def check_renamed(overrides: Iterable[str]) -> None:
    """Refuse an override of a key that has another name now.

    Raises:
        UserError: names both.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        old = re.sub(r"^[+~]*(stages\.[^.]+\.)?", "", key)
        if old in RENAMED:
            new = f"{key.removesuffix(old)}{RENAMED[old]}"
            raise UserError(f"{key}: is called {new.lstrip('+~')} now: give {new}={value}")


def without_choice(override: str) -> str:
    """`group=null` in the words in which Hydra can have it: an empty list of choices."""
    key, _, value = override.partition("=")
    empty = value == "null" and (CONF_DIR / key.split("@")[0]).is_dir()
    return f"{key}=[]" if empty else override
