"""What each stage of an experiment trains with, and when two stages are the same.

One rule makes a stage's config: what stands under `stages.<name>` replaces the same key of the
full config; a mapping with another `_target_` replaces, everything else merges; then
interpolations are resolved. That dictionary is what a stage is built from, and what its directory
and its checkpoint keep. `debug=config` prints it.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

from src.utils.errors import UserError

StageConfig = dict[str, Any]

# The one list of what cannot change what is learnt or measured: where, how fast, and for whom.
# Two stages whose configs are equal but for it are the same; a key that nobody thought of counts.
CANNOT_MATTER = {
    "names": ("name", "notes", "paths.*", "trial", "trial.*"),
    "progress": ("run_stages", "skip_stages", "resume", "checkpoint_minutes"),
    "display": (
        "show",
        "summary",
        "logger",
        "logger.*",
        "num_sample_videos",
        "callbacks.lr_monitor.*",
    ),
    "logs": ("trainer.log_every_n_steps", "trainer.enable_progress_bar"),
    "speed": ("compile", "optimizer.fused", "model.*gradient_checkpointing", "trainer.benchmark"),
    "devices": ("trainer.accelerator", "trainer.devices", "trainer.num_nodes"),
    "strategy": ("trainer", "trainer.strategy", "trainer.strategy.*"),  # trainer=...: the group
    "debugging": ("trainer.detect_anomaly", "trainer.profiler"),
    "reading": ("data.dataset.root", "data.loader.*", "data.videos.*", "data.test.batch_size"),
}
# Places: that the data are elsewhere does not matter, that flow is computed on the fly does.
_PLACES = ("data.rgb", "data.flow", "data.dataset.videos", "data.dataset.lists")
_ON_THE_FLY = "on_the_fly"  # the value of data.flow that is no place


def stage_names(cfg: DictConfig) -> list[str]:
    """The stages to run, in order: all, or those that `run_stages` names, but `skip_stages`.

    Raises:
        UserError: there is no such stage, or none is left.
    """
    stages = list(cfg.stages)
    chosen: dict[str, list[str]] = {}
    for key in ("run_stages", "skip_stages"):
        value = cfg[key]
        chosen[key] = [value] if isinstance(value, str) else list(value or [])
        for name in chosen[key]:
            if name not in stages:
                raise UserError(f"{key}={name}: this experiment has the stages {', '.join(stages)}")
    kept = set(chosen["run_stages"] or stages) - set(chosen["skip_stages"])
    names = [name for name in stages if name in kept]
    if not names:
        raise UserError("run_stages=... and skip_stages=... leave no stage to run")
    return names


def stage_configs(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, StageConfig]:
    """The configs of all stages to run, in order.

    Raises:
        UserError: there is no such stage, or every stage shadows one of the command's overrides.
    """
    names = stage_names(cfg)
    _check_seen(cfg, names, overrides)
    return {name: stage_config(cfg, name) for name in names}


def stage_config(cfg: DictConfig, stage: str) -> StageConfig:
    """The config of one stage: plain and resolved, with the stage's name as `stage`.

    Raises:
        UserError: the model has no such part as the stage trains, or a key has no value.
    """
    own = cfg.stages[stage]
    merged: Any = copy.deepcopy(cfg)
    OmegaConf.set_struct(merged, False)
    del merged["stages"]
    _drop_replaced(merged, own)
    merged = OmegaConf.merge(merged, own)
    OmegaConf.copy_cache(cfg, merged)  # folders that resolvers have read are not read again
    try:
        config: Any = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (InterpolationKeyError, MissingMandatoryValue) as error:
        key = str(error.full_key)
        where = f"stages.{stage}.{key}" if _has(own, key) else key
        raise UserError(f"stage {stage}: {key} has no value: give {where}=...") from error
    if config["network"] not in config["model"]:
        raise UserError(
            f"stage {stage} trains model.{config['network']}, which this model does not have"
        )
    return {"stage": stage, **config}


def _drop_replaced(base: DictConfig, own: DictConfig) -> None:
    """Empty those mappings of `base` that `own` does not merge with but replaces."""
    for key in own:
        node, under = own._get_node(key), OmegaConf.select(base, str(key))
        if isinstance(node, DictConfig) and isinstance(under, DictConfig):
            if OmegaConf.is_interpolation(base, str(key)):  # what it points to stays as it is
                base[key] = copy.deepcopy(under)
                under = base[key]
            if _replaces(node, under):
                base[key] = {}
            else:
                _drop_replaced(under, node)


def _replaces(own: DictConfig, base: DictConfig) -> bool:
    return "_target_" in own and own["_target_"] != base.get("_target_")


def _check_seen(cfg: DictConfig, names: Sequence[str], overrides: Sequence[str]) -> None:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        path = override.package or override.key_or_group.replace("/", ".")
        if path.partition(".")[0] in ("stages", "hydra") or override.is_delete():
            continue
        if not all(_shadows(cfg.stages[name], cfg, path.split(".")) for name in names):
            continue
        mapping = isinstance(OmegaConf.select(cfg, path), DictConfig)
        chosen = mapping and isinstance(override.value(), str)
        group = f"{override.key_or_group}@" if chosen else ""
        value = override.get_value_element_as_str()
        whose = f"stage {names[0]} has its" if len(names) == 1 else "every stage has its"
        if not any(_has(cfg.stages[name], path) for name in names):
            raise UserError(
                f"{path}={value}: {whose} own {path.rpartition('.')[0]}, which has no such key; "
                "debug=config shows it"
            )
        hints = " ".join(f"{group}stages.{name}.{path}={value}" for name in names)
        raise UserError(f"{path}={value}: {whose} own, and would not see it: give {hints}")


def _shadows(own: Any, base: Any, path: Sequence[str]) -> bool:
    """Whether nothing of what the full config has at a path is left in a stage's config."""
    for part in path:
        if part not in own:
            return False
        own, base = own[part], base.get(part)
        if not (isinstance(own, DictConfig) and isinstance(base, DictConfig)):
            return True
        if _replaces(own, base):
            return True
    return False


def _has(own: DictConfig, path: str) -> bool:
    *parents, key = path.split(".")
    parent = OmegaConf.select(own, ".".join(parents)) if parents else own
    return isinstance(parent, DictConfig) and key in parent


def cannot_matter(key: str) -> bool:
    """Whether a key of a config, or of an override, cannot change what is learnt or measured."""
    patterns = itertools.chain(*CANNOT_MATTER.values())
    return any(fnmatchcase(key.replace("/", "."), pattern) for pattern in patterns)


def what_matters(config: StageConfig) -> dict[str, Any]:
    """All that can change what a stage learns or how it is measured, by dotted keys.

    Of the model that is the network which the stage trains, and how its input is normalized.
    """
    trained = (f"model.{config['network']}.", "model.normalize.")
    return {
        key: value == _ON_THE_FLY if key in _PLACES else value
        for key, value in _flat(config)
        if not cannot_matter(key) and (not key.startswith("model.") or key.startswith(trained))
    }


def _flat(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def config_diff(config: StageConfig, other: StageConfig) -> str | None:
    """The first key in which two stages are not the same, as "key: value, other value".

    Integers are no fractions: trainer.limit_test_batches=1 is one batch, 1.0 is all of them.
    """
    values, others = what_matters(config), what_matters(other)
    for key in values | others:
        value, other_value = values.get(key), others.get(key)
        if repr(value) != repr(other_value):
            return f"{key}: {value}, {other_value}"
    return None
