"""Finds every finished stage below given folders, and says what it could not use."""

import glob
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from src.commands import Shown, shown_command
from src.errors import UserError
from src.evaluation.fusion import fuse
from src.evaluation.scores import VideoScores, judge_videos
from src.models.temporal import STREAMS
from src.reporting.records import Run, overrides_beside, read_record, read_run
from src.reporting.settings import settings_of_fused
from src.training.run_dir import StageDir

LATE_FUSION = "late fusion"


@dataclass(frozen=True)
class Problem:
    """A folder that adds nothing to the report, and the reason in one line."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Collection:
    """Runs, each once, and what was left out."""

    runs: list[Run]
    problems: list[Problem]


def collect(places: Sequence[str]) -> Collection:
    """Read all finished stages below folders, and fuse the streams that one run has trained apart.

    Args:
        places: folders, or patterns such as `outputs/st_*`.

    Raises:
        UserError: a place does not exist.
    """
    read_record.cache_clear()
    runs: list[Run] = []
    problems: list[Problem] = []
    for folder in _stage_folders(places):
        reason = None if StageDir(folder).record.is_file() else _why_unfinished(folder)
        if reason is None:
            try:
                runs.append(read_run(folder))
            except UserError as error:
                reason = str(error)
        if reason is not None:
            problems.append(Problem(folder, reason))
    once, copies = _without_copies(runs)
    fused, failed = _late_fusion(runs)  # a copied stream may have another partner
    return Collection([*once, *fused], [*problems, *copies, *failed])


def _stage_folders(places: Sequence[str]) -> list[Path]:
    """Folders of stages, finished or not; one that is reached in several ways is there once."""
    found: dict[Path, Path] = {}
    visited: set[Path] = set()
    for start in starts(places):
        for folder in _walk(start, visited):
            found.setdefault(folder.resolve(), folder)
    return sorted(found.values())


def starts(places: Sequence[str]) -> list[Path]:
    """The folders that are named by themselves or by patterns.

    Raises:
        UserError: there is none.
    """
    found: list[Path] = []
    for place in places:
        named = [place] if Path(place).exists() else sorted(glob.glob(place, recursive=True))
        if not named:
            raise UserError(f"runs={place} does not exist: give folders with finished runs")
        found += map(Path, named)
    return found


def _walk(start: Path, visited: set[Path]) -> Iterator[Path]:
    for name, folders, files in os.walk(start, followlinks=True):
        folder = Path(name)
        if folder.resolve() in visited:
            folders.clear()  # by another link
            continue
        visited.add(folder.resolve())
        if _is_stage(folder, files):
            folders.clear()  # of logs
            yield folder
        folders[:] = sorted(one for one in folders if not one.startswith("."))


def _is_stage(folder: Path, files: Iterable[str]) -> bool:
    names = set(files)
    if "stage.json" in names or any(name.endswith(".ckpt") for name in names):
        return True
    config = folder.parent / ".hydra" / "config.yaml"
    if not config.is_file():
        return False
    try:
        stages = OmegaConf.select(OmegaConf.load(config), "stages")
    except (OSError, YAMLError, OmegaConfBaseException):
        return False
    return isinstance(stages, DictConfig) and folder.name in stages


def _why_unfinished(folder: Path) -> str:
    began = "stopped while it trained" if any(folder.glob("*.ckpt")) else "no pass is complete"
    given = overrides_beside(folder.parent)
    if given is None:
        return f"not finished: {began}"
    overrides: list[Shown] = [one for one in given if not one.startswith("trial=")]
    if len(overrides) < len(given):
        began = "a trial of a search, which may have pruned it"
        overrides.insert(0, "hydra.mode=RUN")
    if not any(one.startswith("paths.run_dir=") for one in given):
        # A job of a sweep has been given its directory by the sweep.
        overrides.append(("paths.run_dir", folder.parent))
    return f"not finished: {began}; {shown_command('train', *overrides)} goes on"


def _without_copies(runs: Iterable[Run]) -> tuple[list[Run], list[Problem]]:
    """Each run once: scores equal in every digit are the same run copied, or exactly repeated."""
    first: dict[object, Run] = {}
    copies: list[Problem] = []
    for run in runs:
        what = (run.experiment, run.stage, run.dataset, run.protocol, run.split, run.seed)
        known = first.setdefault((what, run.trained, run.fingerprint), run)
        if known is not run:
            copies.append(Problem(run.folder, f"the same scores as {known.folder}: counted once"))
    return list(first.values()), copies


def _late_fusion(runs: Iterable[Run]) -> tuple[list[Run], list[Problem]]:
    """The mean of the logits of the two streams that a run has trained apart."""
    of_run: dict[Path, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        of_run[run.run_dir][run.stage] = run
    fused: dict[object, Run] = {}
    failed: list[Problem] = []
    for folder, stages in of_run.items():
        streams = [stages[stream] for stream in STREAMS if stream in stages]
        what = tuple((run.experiment, run.trained, run.fingerprint) for run in streams)
        if len(streams) < len(STREAMS) or what in fused:
            continue
        try:
            fused[what] = _fused(folder, streams)
        except UserError as error:
            failed.append(Problem(folder, f"no late fusion: {error}"))
    return list(fused.values()), failed


def _fused(folder: Path, streams: Sequence[Run]) -> Run:
    first = streams[0]
    for what in ("dataset", "split", "seed", "drawn", "test_protocol"):
        values = [str(getattr(run, what)) for run in streams]
        if len(set(values)) > 1:
            raise UserError(
                f"the streams differ in their {what.replace('_', ' ')} ({', '.join(values)})"
            )
    scores = fuse([VideoScores.load(StageDir(run.folder).scores()) for run in streams])
    return replace(
        first,
        folder=folder,
        stage=LATE_FUSION,
        accuracy=judge_videos(scores),
        heads={},
        settings=settings_of_fused({run.stage: run.settings for run in streams}),
        fingerprint=" ".join(run.fingerprint for run in streams),
        faults=(),
    )
