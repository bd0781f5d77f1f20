"""What decides what a stage has learnt: its config and those of the stages before it, flat."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.data.library import ON_THE_FLY
from src.experiment.config import StageConfig, what_matters
from src.training.warm_start import weight_sources

OWN = ""
Key = tuple[str, str]  # the stage that a setting is of, OWN for the run's own; its dotted name
Value = str | int | float | bool | None
Settings = dict[Key, Value]  # None is null; what an older version did not know is not there
Find = Callable[[str, Path], tuple[Path, Mapping[str, Any]] | None]

# Of what matters, that which makes runs of one row: split and seeds. The protocol is told beside
# what was trained, where the weights come from is followed.
_TOLD_ELSEWHERE = {
    "stage",
    "seed",
    "network",
    "milestones",  # the scheduler has them
    "data.split",
    "data.seed",
    "data.rgb",
    "data.flow",
    "data.test.frames",
    "data.test.part",
    "data.dataset.split",
    "data.dataset.seed",
    "data.dataset.videos",
    "data.dataset.lists",
}
_ELSEWHERE = ("init_from", "protocol.", "data.flow_settings.")
_HYDRA_WORDS = ("._partial_", "._convert_", "._recursive_")


def settings_of(record: Mapping[str, Any], folder: Path, find: Find) -> Settings:
    """Everything that distinguishes what a stage has learnt, but split, seeds and places.

    A stage that starts from others has learnt what they have: their settings are among its own,
    with the name of their stage.

    Args:
        record: of the stage.
        folder: of the stage.
        find: the folder and the record of the stage that a source in a config names, None if it is
            no stage or is gone; the second argument is the folder of the stage that starts from it.
    """
    return _collect(record, folder, find, OWN, {folder})


def settings_of_fused(streams: Mapping[str, Settings]) -> Settings:
    """What distinguishes the fusion of stages: all that distinguishes each."""
    return {
        (stage or stream, name): value
        for stream, settings in streams.items()
        for (stage, name), value in settings.items()
    }


def _collect(
    record: Mapping[str, Any], folder: Path, find: Find, stage: str, seen: set[Path]
) -> Settings:
    config = record["config"]
    settings: Settings = {(stage, name): value for name, value in _own(config, record.get("flow"))}
    for part, source in weight_sources(config).items():
        name = f"init_from.{part}" if part else "init_from"
        if source is None:
            settings[stage, name] = None
            continue
        found = find(source, folder)
        if found is None or found[0] in seen:
            settings[stage, name] = _without_split_and_seed(source)
            continue
        place, before = found
        earlier = str(before["config"]["stage"])
        settings[stage, name] = earlier
        added = _collect(before, place, find, earlier, seen | {place})
        if any(settings.get(key, value) != value for key, value in added.items()):
            # Two parts start from stages of one name that were trained differently.
            added = {(f"{part}.{one}", key): value for (one, key), value in added.items()}
        settings |= added
    return settings


def _own(config: StageConfig, flow: Mapping[str, Any] | None) -> Iterator[tuple[str, Value]]:
    """The settings that matter, and how the flow was made; `x._target_` is called x."""
    for name, value in what_matters(config).items():
        told_elsewhere = name in _TOLD_ELSEWHERE or name.startswith(_ELSEWHERE)
        if told_elsewhere or name.endswith(_HYDRA_WORDS):
            continue
        if isinstance(value, str) and ("/" in value or "\\" in value):
            continue  # a place
        name = name.removesuffix("._target_")
        if value is None or isinstance(value, (str, int, float, bool)):
            yield name, value
        else:
            yield name, json.dumps(value).replace(" ", "").replace('"', "")
    data = config["data"]
    if "flow" not in data["modalities"]:
        return
    on_the_fly = data["flow"] == ON_THE_FLY
    yield "data.flow", ON_THE_FLY if on_the_fly else "stored"
    made_by = flow or ((data["flow_settings"] or {}) if on_the_fly else {})
    for key, value in made_by.items():
        if key == "parameters":  # the algorithm's, as arguments are a constructor's
            yield from ((f"flow.algorithm.{name}", each) for name, each in value.items())
        elif not key.startswith("_"):
            yield f"flow.{key}", value


def _without_split_and_seed(source: str) -> str:
    return re.sub(r"(split|seed)[-_=]?\d+", r"\1", source)
