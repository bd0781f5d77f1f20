"""Where a sweep writes: a folder by what all of its jobs share, in it one by what differs.

    outputs/sweeps/st_resnet_hmdb51_optimizer.momentum-0.8/seed-1_weight_decay-0/

A sweep that is extended by a value finds the jobs that it has had.
"""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from hashlib import sha256
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import InterpolationToMissingValueError

from src.experiment.config import cannot_matter
from src.utils.errors import short_name
from src.utils.mistakes import one_line_errors

# Nothing that a shell or Hydra wants quoted; what else is replaced is told apart by a hash.
_REPLACED = re.compile(r"[^\w.+-]+", re.ASCII)
started: list[tuple[DictConfig, float]] = []  # the sweep of this process, and when it began
_sweep: ContextVar[DictConfig] = ContextVar("sweep")  # the config of this process's sweep
_UNCLEAR = re.compile(r"[^\w.+\-=:,{}\[\]'\" ]", re.ASCII)


def given(config: DictConfig) -> dict[str, Override]:
    """What a sweep's command and its config ask for, swept or not, by key; the last one counts."""
    params = config.hydra.sweeper.get("params") or {}
    texts = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
    parsed = OverridesParser.create().parse_overrides(texts)
    return {override.get_key_element(): override for override in parsed}


class SweepStart(Callback):
    """Hydra calls it before the first job of a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Settle the names of folders, and remember what is swept until its end."""
        with one_line_errors():  # Hydra would make a warning of an exception
            settle_folders(config)
        started.append((config, time.time()))


def settle_folders(config: DictConfig) -> None:
    """Resolve the names of a sweep's folder and of what is swept in its config, for all jobs.

    Hydra hands the cache of these resolvers to the config of each job, on whatever machine.
    """
    _sweep.set(config)
    _ = config.hydra.sweep.dir
    with suppress(InterpolationToMissingValueError):  # one's own, which needs the job's number
        _ = config.hydra.sweep.subdir


def swept_keys() -> list[str]:
    """The keys of the sweep that have several values; a resolver."""
    return [key for key, override in given(_sweep.get()).items() if override.is_sweep_override()]


def sweep_folder() -> str:
    """The name of the sweep's folder: the experiment's, and what all jobs share; a resolver."""
    config = _sweep.get()
    every = given(config)
    name = "experiments" if "experiment" in swept_keys() else str(config.name)
    fixed = [
        f"{key}={override.get_value_element_as_str()}"
        for key, override in every.items()
        if not (override.is_sweep_override() or override.is_delete() or says_nothing(key))
    ]
    own = (f"experiment={name}", f"sweep={name}")  # they say no more than the name
    return _named([name, *sorted(text for text in fixed if text not in own)])


def job_folder(overrides: Sequence[str], swept: Sequence[str]) -> str:
    """The name of a job's folder: the values of the keys that are swept; a resolver.

    It has those alone that can change the job's result, by the ends of their keys:
    "optimizer.weight_decay=0" is weight_decay-0.
    """
    values = dict(text.partition("=")[::2] for text in overrides)
    kept = [key for key in swept if key in values and not says_nothing(key)]
    short = short_keys(kept)
    return _named([f"{short[key]}={values[key]}" for key in kept]) or "job"


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last parts of keys, as many as distinguish them."""
    short = {}
    for key in keys:
        parts = key.lstrip("+~").split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [other.lstrip("+~") for other in keys if other != key]
        alone = (e for e in ends if not any(f".{other}".endswith(f".{e}") for other in others))
        short[key] = next(alone, ends[-1])
    return short


def says_nothing(key: str) -> bool:
    """Whether the key of an override says nothing about the result of a job."""
    plain = key.lstrip("+~")
    return plain.startswith("hydra") or cannot_matter(plain)


def _named(texts: Sequence[str]) -> str:
    """Texts such as key=value as a name."""
    every = "_".join(texts)
    name = _REPLACED.sub("_", re.sub(r"[=:]+[{\[]?", "-", every)).strip("_")
    if any(_UNCLEAR.search(text.partition("=")[2]) for text in texts):
        name += "_" + sha256(every.encode(errors="surrogateescape")).hexdigest()[:8]
    return short_name(name, every)
