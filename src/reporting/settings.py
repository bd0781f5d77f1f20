"""What decides what a stage has learnt: its plan and those of the stages it started from, flat."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.data.library import ON_THE_FLY
from src.training.plan import difference
from src.training.warm_start import sources

OWN = ""
Key = tuple[str, str]  # the stage that a setting is of, OWN for the run's own; its dotted name
Value = str | int | float | bool | None
Settings = dict[Key, Value]  # None is null; what an older version did not know is not there
Find = Callable[[str, Path], tuple[Path, Mapping[str, Any]] | None]

# Split, seeds and places make runs of one row; the protocol is told beside what was trained.
_NOT_TRAINED = {
    "stage",
    "start_from",
    "protocol",
    "data.split",
    "data.seed",
    "data.rgb",
    "data.flow",
    "data.flow_dir",
    "data.flow_settings",
    "data.test_frames",
    "data.test_part",
    "data.dataset.split",
    "data.dataset.seed",
    "data.dataset.root",
    "data.dataset.videos",
    "data.dataset.lists",
}
_HYDRA_WORDS = {"_partial_", "_convert_", "_recursive_"}


def settings_of(record: Mapping[str, Any], folder: Path, find: Find) -> Settings:
    """Everything that distinguishes what a stage has learnt, but split, seeds and places.

    A stage that starts from others has learnt what they have: their settings are among its own,
    with the name of their stage.

    Args:
        record: of the stage.
        folder: of the stage.
        find: the folder and the record of the stage that a source in a plan names, None if it is
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
    plan = record["plan"]
    settings: Settings = {(stage, name): value for name, value in _own(plan, record.get("flow"))}
    for part, source in sources(plan).items():
        name = f"start_from.{part}" if part else "start_from"
        if source is None:
            settings[stage, name] = None
            continue
        found = find(source, folder)
        if found is None or found[0] in seen:
            settings[stage, name] = _without_split_and_seed(source)
            continue
        place, before = found
        earlier = str(before["plan"]["stage"])
        settings[stage, name] = earlier
        added = _collect(before, place, find, earlier, seen | {place})
        if any(settings.get(key, value) != value for key, value in added.items()):
            # Two parts start from stages of one name that were trained differently.
            added = {(f"{part}.{one}", key): value for (one, key), value in added.items()}
        settings |= added
    return settings


def _own(plan: Mapping[str, Any], flow: Mapping[str, Any] | None) -> Iterator[tuple[str, Value]]:
    """The plan's settings that matter, and how the flow was made."""
    sees_flow = "flow" in plan["data"].get("modalities", ())
    on_the_fly = plan["data"].get("flow") == ON_THE_FLY
    yield from _flat(plan, "")
    if sees_flow and on_the_fly:
        yield "data.flow", ON_THE_FLY
    if sees_flow and flow is not None:
        yield from _flat(flow, "flow.")
    elif sees_flow and on_the_fly:
        chosen = plan["data"].get("flow_settings") or {}
        yield from _flat({key: chosen[key] for key in chosen if key != "_target_"}, "flow.")


def _flat(content: Mapping[str, Any], path: str) -> Iterator[tuple[str, Value]]:
    """Dotted names and values; `x._target_` is called x."""
    for key, value in content.items():
        name = path.removesuffix(".") if key == "_target_" else f"{path}{key}"
        if key in _HYDRA_WORDS or name in _NOT_TRAINED or _speed_only(name):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, str) and ("/" in value or "\\" in value):
            continue  # a place
        elif value is None or isinstance(value, (str, int, float, bool)):
            yield name, value
        else:
            yield name, json.dumps(value).replace(" ", "").replace('"', "")


def _speed_only(name: str) -> bool:
    """Whether training does not care, by the rule for going on in a run directory."""
    parent, _, key = name.rpartition(".")
    return difference({key: 0}, {key: 1}, f"{parent}." if parent else "") is None


def _without_split_and_seed(source: str) -> str:
    return re.sub(r"(split|seed)[-_=]?\d+", r"\1", source)
