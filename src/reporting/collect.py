"""Every finished stage below given folders: what was trained, how it was tested, how it did."""

import contextlib
import glob
import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from src.data.faults import Faults
from src.evaluation.scores import Accuracy
from src.experiment.config import what_matters
from src.experiment.init_from import weight_sources
from src.experiment.run_dir import StageDir
from src.utils.commands import Shown, shown_command
from src.utils.errors import UserError

# Keys of a config, and of overrides, in which the repetitions of one experiment differ.
REPEATED = ("seed", "data.seed", "data.split", "data.dataset.seed", "data.dataset.split")
# Videos in the test lists of split 1, 2 and 3.
_TEST_VIDEOS = {"hmdb51": (1530, 1530, 1530), "ucf101": (3783, 3734, 3696)}
_LARGEST_CONFIG = 1_000_000  # bytes of a file that Hydra has written; more is not read

Record = Mapping[str, Any]  # what stage.json holds
Identity = dict[str, str]  # texts of values by dotted keys; null is the same as no key


@dataclass(frozen=True)
class Run:
    """A finished stage, and what it has shown."""

    folder: Path  # of the stage
    experiment: str
    stage: str
    dataset: str
    split: int
    seed: int
    drawn: int  # the seed of a dataset that is drawn; 0 of others
    protocol: str  # of the test; it says so if videos were skipped or counted as wrong
    partial: bool  # whether it was tested on other videos than the dataset's test list
    accuracy: Accuracy
    classifiers: Mapping[str, Accuracy]  # each alone, of a net that has several
    identity: Identity  # all that decides what was learnt and measured, but seeds and split
    overrides: tuple[str, ...] | None  # of the command line, None if there was none
    version: str  # of the project
    fingerprint: str  # the same for copies of one run
    faults: tuple[Faults, ...]  # videos that were missing or broken

    @property
    def trained(self) -> object:
        """The same for runs that differ in split and seed alone."""
        return self.experiment, self.dataset, self.protocol, frozenset(self.identity.items())


def collect(places: Sequence[str]) -> tuple[list[Run], dict[Path, str]]:
    """Read all finished stages below folders, or below what patterns such as `outputs/st_*` match.

    Returns:
        The runs; and the folders that add none to them, with the reason in one line. Copies, of
        equal scores in every digit, count once.

    Raises:
        UserError: a place does not exist.
    """
    runs: dict[object, Run] = {}
    skipped: dict[Path, str] = {}
    for folder in _stage_folders(places):
        try:
            run = _read_run(folder)
        except UserError as error:
            skipped[folder] = str(error)
            continue
        repeat = (run.split, run.seed, run.drawn, run.fingerprint)
        first = runs.setdefault((run.trained, *repeat), run)
        if first is not run:
            skipped[folder] = f"the same scores as {first.folder}: counted once"
    return list(runs.values()), skipped


def starts(places: Sequence[str]) -> list[Path]:
    """The folders that are named by themselves or by patterns.

    Raises:
        UserError: there is none.
    """
    folders: list[Path] = []
    for place in places:
        named = [place] if Path(place).exists() else sorted(glob.glob(place, recursive=True))
        if not named:
            raise UserError(f"runs={place} does not exist: give folders with finished runs")
        folders += map(Path, named)
    return folders


def identity(record: Record, before: Mapping[str, Identity]) -> Identity:
    """All that decides what a stage has learnt and how it was measured, but seeds and split.

    What two stages have to share to be the same decides here as well, see `experiment.config`. The
    identities of the stages `before`, that parts of the net start from, are added under the part's
    name, or the stage's if it is the full net.
    """
    own = what_matters({**record["config"], "flow": record["flow"]})
    for part, source in weight_sources(record["config"]).items():
        key = f"init_from.{part}" if part else "init_from"
        if part in before:
            stage = own[key] = before[part]["stage"]
            own |= {f"{part or stage}.{name}": value for name, value in before[part].items()}
        elif source is not None:
            own[key] = re.sub(r"(split|seed)[-_=]?\d+", r"\1", source)
    return {
        key: str(value) for key, value in own.items() if value is not None and key not in REPEATED
    }


def _stage_folders(places: Sequence[str]) -> list[Path]:
    """Folders of stages, finished or not; one that is reached in several ways is there once."""
    stages: list[Path] = []
    visited: set[Path] = set()
    for start in starts(places):
        for name, folders, files in os.walk(start, followlinks=True):
            folder = Path(name)
            new = folder.resolve() not in visited
            visited.add(folder.resolve())
            if new and _is_stage(folder, files):
                stages.append(folder)
                new = False  # what is below are logs
            folders[:] = sorted(below for below in folders if new and not below.startswith("."))
    return sorted(stages)


class _WithoutAliases(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML in which nothing stands for something else, so that it is as large as its text."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As it does, but for an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


def _is_stage(folder: Path, files: Sequence[str]) -> bool:
    if "stage.json" in files or any(name.endswith(".ckpt") for name in files):
        return True
    config = _kept_by_hydra(folder.parent, "config")
    stages = config.get("stages") if isinstance(config, dict) else None
    return isinstance(stages, dict) and folder.name in stages


def _kept_by_hydra(run_dir: Path, name: str) -> Any:
    """What a command has left in a run directory, as it was given; None if nothing can be read."""
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        file = run_dir / ".hydra" / f"{name}.yaml"
        if file.stat().st_size <= _LARGEST_CONFIG:
            return yaml.load(file.read_text(encoding="utf-8"), _WithoutAliases)
    return None


def _read_run(folder: Path) -> Run:
    """Read a finished stage, whose checkpoint may have been moved away.

    Raises:
        UserError: it is not finished, or its record is broken.
    """
    stage_dir = StageDir(folder)
    record = stage_dir.read()
    if record is None:
        raise UserError(_why_unfinished(folder))
    try:
        config, accuracy = record["config"], _accuracy(record["accuracy"])
        data, videos, wrong = config["data"], accuracy.videos, accuracy.unreadable
        dataset = _dataset(data["dataset"])
        listed = _listed(dataset, data)
        validated = data["test"]["part"] == "val"  # its protocol says so
        partly = not validated and listed is not None and videos != listed
        # Such numbers are no number of the dataset's, and must not meet those that are.
        protocol = record["protocol"] + (f"; {videos} of {listed} videos" if partly else "")
        protocol += f"; {wrong} of {videos} videos counted as wrong" if wrong else ""
        file = stage_dir.scores()  # they may have been moved away
        scores = file.read_bytes() if file.is_file() else repr(accuracy).encode()
        return Run(
            folder=folder,
            experiment=str(config["name"]),
            stage=str(config["stage"]),
            dataset=dataset,
            split=int(data["split"]),
            seed=int(config["seed"]),
            drawn=int(data["dataset"].get("seed") or 0),
            protocol=protocol,
            partial=validated or partly,
            accuracy=accuracy,
            classifiers={name: _accuracy(own) for name, own in record["streams"].items()},
            identity=_identity_of(record, folder.resolve(), ()),
            overrides=None if record["overrides"] is None else tuple(record["overrides"]),
            version=record["version"],
            fingerprint=hashlib.sha256(scores).hexdigest(),
            faults=tuple(Faults(**about) for about in record["faults"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"stage.json is not the record of a finished stage ({reason})") from error


def _identity_of(record: Record, folder: Path, after: Sequence[Path]) -> Identity:
    """The identity of the stage in a folder that the stages in `after` start from."""
    before: dict[str, Identity] = {}
    for part, source in weight_sources(record["config"]).items():
        if source is None:
            continue
        beside = folder / record["stage_dirs"].get(source, f"../{source}")
        around = [Path(source).parent] if Path(source).suffix else []  # it is a checkpoint
        for place in (folder_of.resolve() for folder_of in (beside, *around)):
            with contextlib.suppress(UserError):  # one that is broken counts as gone
                earlier = StageDir(place).read()
                if earlier and place not in (folder, *after):
                    before[part] = _identity_of(earlier, place, (folder, *after))
                    break
    return identity(record, before)


def _accuracy(content: Mapping[str, Any]) -> Accuracy:
    if not all(math.isfinite(value) for value in content.values()):
        raise ValueError("an accuracy is not a number")
    return Accuracy(**content)


def _dataset(dataset: Mapping[str, Any]) -> str:
    """The dataset's name: what its reader is called after; of a folder of videos its own."""
    if "fingerprint" in dataset:
        return f"{Path(dataset['root']).name} {dataset['fingerprint']}"
    return str(dataset["_target_"]).rpartition(".")[2].removeprefix("read_")


def _listed(dataset: str, data: Mapping[str, Any]) -> int | None:
    """How many test videos the dataset has; None if that is not known."""
    if dataset in _TEST_VIDEOS and data["split"] in (1, 2, 3):
        return _TEST_VIDEOS[dataset][data["split"] - 1]
    drawn = data["dataset"].get("num_test")
    return int(drawn) if drawn is not None else None


def _why_unfinished(folder: Path) -> str:
    state = "stopped while it trained" if any(folder.glob("*.ckpt")) else "no epoch is complete"
    given = _kept_by_hydra(folder.parent, "overrides")
    if not isinstance(given, list):
        return f"not finished: {state}"
    overrides: list[Shown] = [text for text in map(str, given) if not text.startswith("trial=")]
    if len(overrides) < len(given):
        state = "a trial of a search, which may have pruned it"
        overrides.insert(0, "hydra.mode=RUN")
    if not any(str(override).startswith("paths.run_dir=") for override in given):
        # A job of a sweep has been given its directory by the sweep.
        overrides.append(("paths.run_dir", folder.parent))
    return f"not finished: {state}; to resume it: {shown_command('train', *overrides)}"
