"""From a composed config to the plans of its stages, see `src.models.build`."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from src.errors import UserError
from src.models.build import Plan

# Changing these changes how fast a stage runs and what stops it, not what it learns.
_NOT_LEARNT = {
    f"data.{key}"
    for key in (
        "num_workers",
        "test_batch_size",
        "prefetch",
        "timeout",
        "start_method",
        "decoder",
        "cache_dir",
        "manifest",
        "missing",
        "max_broken",
        "test_part",  # see `StageDir.check_tested_by`
    )
} | {"optimizer.fused", *(f"net.{s}checkpointing" for s in ("", "appearance.", "motion."))}
# Of the trainer; those of gradients are Lightning's own, which a config may add.
_LIMITS = ("max_epochs", "limit_train_batches", "gradient_clip_val", "gradient_clip_algorithm")
_TESTING = "protocol"  # see `StageDir.check_tested_by`

# Chosen for all stages at the top of the config; a stage may override them: stages.<stage>.<key>.
_OF_MODULE = ("batch_norm", "label_smoothing", "class_weights", "mixing")
_STAGES_MAY_HAVE_THEIR_OWN = ("optimizer", "schedule", "checkpoint", *_OF_MODULE)


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """The composed config as plain dictionaries, all interpolations filled in."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]


def stage_names(config: Mapping[str, Any]) -> list[str]:
    """The stages to run, in order: all, or those that `only` names, without those of `skip`."""
    stages = list(config["stages"])
    chosen = {}
    for key in ("only", "skip"):
        value = config[key]
        chosen[key] = [value] if isinstance(value, str) else list(value or [])
        unknown = [name for name in chosen[key] if name not in stages]
        if unknown:
            raise UserError(
                f"{key}={unknown[0]}: this experiment has the stages {', '.join(stages)}"
            )
    return [
        name
        for name in stages
        if (not chosen["only"] or name in chosen["only"]) and name not in chosen["skip"]
    ]


def make_plan(config: Mapping[str, Any], stage: str) -> Plan:
    """Put together what one stage changes with what all stages share."""
    chosen, model = config["stages"][stage], config["model"]
    if chosen["network"] not in model:
        raise UserError(
            f"stage {stage} trains model.{chosen['network']}, which this model does not have"
        )
    trainer, ema = config["trainer"], (config["callbacks"] or {}).get("ema")
    shared = {key: chosen.get(key, config[key]) for key in _STAGES_MAY_HAVE_THEIR_OWN}
    return {
        "stage": stage,
        "net": model[chosen["network"]] | chosen.get("net", {}),
        "normalise": model["normalise"],
        "data": config["data"] | chosen["data"],
        "module": chosen["module"]
        | {key: shared[key] for key in _OF_MODULE}
        | {"schedule": _schedule(shared["schedule"], chosen["module"]["schedule"])},
        "optimizer": shared["optimizer"],
        "protocol": config["protocol"],
        "checkpoint": shared["checkpoint"],
        "ema": ema and {key: value for key, value in ema.items() if key != "_target_"},
        "sync_batchnorm": trainer["sync_batchnorm"],
        "batch_size": chosen["batch_size"],
        "start_from": chosen["start_from"],
        "limits": {key: trainer.get(key) for key in _LIMITS},
        "precision": _precision(trainer["precision"], config["tf32"]),
    }


def _precision(precision: Any, tf32: bool | None) -> Any:
    return precision if tf32 is None else f"{precision}, tf32={tf32}"


def _schedule(schedule: dict[str, Any] | None, own: dict[str, Any]) -> dict[str, Any]:
    """The schedule chosen for all stages, if any, its nulls filled in from the stage's own."""
    if schedule is None:
        return own
    recipe = instantiate(own, _convert_="all")
    known = {"lr": recipe.lr, "epochs": recipe.epochs}
    return {key: known.get(key) if value is None else value for key, value in schedule.items()}


def difference(plan: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> str | None:
    """The first place where two plans would train differently, as "key: one, other"."""
    for key in dict.fromkeys([*plan, *other]):
        where = f"{path}{key}"
        if where in _NOT_LEARNT or where == _TESTING:
            continue
        one, two = plan.get(key), other.get(key)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            inner = difference(one, two, f"{where}.")
            if inner:
                return inner
        elif one != two:
            return f"{where}: {one}, {two}"
    return None
