"""One finished stage as its directory tells it: what was trained, how it was tested, how it did."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from src.data.faults import Faults
from src.errors import UserError
from src.evaluation.scores import Accuracy
from src.reporting.settings import Key, Settings, Value, settings_of
from src.training.run_dir import StageDir

Record = dict[str, Any]
# Videos in the test lists of split 1, 2 and 3.
_TEST_VIDEOS = {"hmdb51": (1530, 1530, 1530), "ucf101": (3783, 3734, 3696)}


@dataclass(frozen=True)
class Run:
    """A finished stage, or the late fusion of two, and what it has shown.

    Args:
        folder: of the stage; of the whole run for late fusion.
        run_dir: of the whole run.
        experiment: its name.
        stage: its name.
        dataset: its name.
        split: of the dataset.
        seed: of the run.
        drawn: the seed of a dataset that is drawn; 0 of others.
        test_protocol: of the test; it says so if not all test videos were in it.
        partial: whether that is so.
        accuracy: of the net's prediction.
        heads: of each classifier alone, for nets that have several.
        settings: all that decides what was trained, but split and seeds.
        overrides: of the command line; None if nobody knows.
        version: of the project; None if nobody knows.
        fingerprint: the same for copies of one run.
        faults: videos that were missing or broken.
    """

    folder: Path
    run_dir: Path
    experiment: str
    stage: str
    dataset: str
    split: int
    seed: int
    drawn: int
    test_protocol: str
    partial: bool
    accuracy: Accuracy
    heads: Mapping[str, Accuracy]
    settings: Settings
    overrides: tuple[str, ...] | None
    version: str | None
    fingerprint: str
    faults: tuple[Faults, ...] = ()

    @property
    def protocol(self) -> str:
        """Of the test, and whether videos count as wrong that could not be read.

        Such a number must not meet others, nor be taken for one of the dataset's.
        """
        accuracy = self.accuracy
        wrong = f"; {accuracy.unreadable} of {accuracy.videos} videos counted as wrong"
        return self.test_protocol + (wrong if accuracy.unreadable else "")

    @property
    def trained(self) -> frozenset[tuple[Key, Value]]:
        """The same for runs that were trained alike; null is the same as nothing."""
        return frozenset(item for item in self.settings.items() if item[1] is not None)


@cache
def read_record(folder: Path) -> Record:
    """The record of a finished stage; its checkpoint may have been moved away.

    Raises:
        UserError: there is none, or it is broken.
    """
    file = StageDir(folder).record
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file.name} cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{file.name} is not a record")
    if "plan" in record:
        raise UserError(f"{file.name} was made before version 0.1 was released: no longer read")
    return record


def read_run(folder: Path) -> Run:
    """Read a finished stage.

    Raises:
        UserError: the record is missing or broken.
    """
    place = folder.resolve()
    record = read_record(place)
    try:
        config = record["config"]
        data = config["data"]
        dataset, split = _dataset(data["dataset"]), int(data["split"])
        accuracy, listed = _accuracy(record["accuracy"]), _listed(dataset, split, data)
        validated = data["test"]["part"] == "val"  # its protocol says so
        listed = None if validated else listed
        partial = validated or (listed is not None and accuracy.videos != listed)
        # Not a number of the dataset's: it must not meet those that are.
        partly = f"; {accuracy.videos} of {listed} videos" if partial and listed else ""
        return Run(
            folder=folder,
            run_dir=folder.parent,
            experiment=str(config["name"]),
            stage=str(config["stage"]),
            dataset=dataset,
            split=split,
            seed=int(config["seed"]),
            drawn=int(data["dataset"].get("seed") or 0),
            test_protocol=f"{record['protocol']}{partly}",
            partial=partial,
            accuracy=accuracy,
            heads={stream: _accuracy(one) for stream, one in record["streams"].items()},
            settings=settings_of(record, place, _find_stage),
            overrides=None if record["overrides"] is None else tuple(record["overrides"]),
            version=record["version"],
            fingerprint=_fingerprint(record, folder),
            faults=tuple(Faults(**about) for about in record["faults"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"stage.json is not a record of a finished stage ({reason})") from error


def _find_stage(source: str, folder: Path) -> tuple[Path, Record] | None:
    """The stage that the config in `folder` calls `source`, or around the checkpoint `source`."""
    elsewhere = read_record(folder)["stage_dirs"].get(source)
    beside = folder / elsewhere if elsewhere else folder.parent / source
    for place in (beside, Path(source).parent) if Path(source).suffix else (beside,):
        if StageDir(place).record.is_file():
            place = place.resolve()
            try:
                record = read_record(place)
            except UserError:
                return None
            return (place, record) if isinstance(record.get("config"), dict) else None
    return None


def _accuracy(content: Mapping[str, Any]) -> Accuracy:
    """Accuracies out of a record, which may have more of them than this version knows."""
    values = {one.name: content[one.name] for one in fields(Accuracy) if one.name in content}
    if not all(math.isfinite(value) for value in values.values()):
        raise ValueError("an accuracy is not a number")
    return Accuracy(**values)


def _dataset(dataset: Mapping[str, Any]) -> str:
    """The dataset's name: what its reader is called after; of a folder of videos its own."""
    if "fingerprint" in dataset:
        return f"{Path(dataset['root']).name} {dataset['fingerprint']}"
    return str(dataset["_target_"]).rpartition(".")[2].removeprefix("read_")


def _listed(dataset: str, split: int, data: Mapping[str, Any]) -> int | None:
    """How many test videos the dataset has; None if that is not known."""
    if dataset in _TEST_VIDEOS and split in (1, 2, 3):
        return _TEST_VIDEOS[dataset][split - 1]
    made = data["dataset"].get("num_test")
    return int(made) if made is not None else None


def overrides_beside(run_dir: Path) -> tuple[str, ...] | None:
    """The overrides of the last command in a run directory, None if they are not kept there."""
    try:
        content = OmegaConf.load(run_dir / ".hydra" / "overrides.yaml")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return None
    if not isinstance(content, ListConfig):
        return None
    # As they were given: ${oc.env:HOME} is not for this machine to fill in.
    overrides: Any = OmegaConf.to_container(content, resolve=False)
    return tuple(map(str, overrides))


def _fingerprint(record: Record, folder: Path) -> str:
    """A hash of the scores, or of the accuracies where the scores are gone."""
    scores = StageDir(folder).scores()
    content = scores.read_bytes() if scores.is_file() else json.dumps(record["accuracy"]).encode()
    return hashlib.sha256(content).hexdigest()
