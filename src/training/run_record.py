"""What became of a run, in run.json of its directory: for the table of the sweep that it is of.

The results themselves are in the records of its stages.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from omegaconf import DictConfig

from src.experiment.config import stage_names
from src.experiment.run_dir import StageDir, stage_dirs
from src.training.checks import check_config
from src.utils.errors import UserError
from src.utils.files import atomic_write
from src.utils.mistakes import find_mistake

FILE_NAME = "run.json"
RUNNING, DONE, RESUMED = "running", "done", "resumed"
PRUNED, STOPPED, FAILED = "pruned", "stopped", "failed"


@dataclass(frozen=True)
class RunRecord:
    """The last call of a run's command, or the last that trained anything if all is finished."""

    overrides: tuple[str, ...]
    stages: dict[str, str]  # directories of those to run, in order, relative to the run's
    state: str = RUNNING
    reason: str = ""  # why it failed
    value: float | None = None  # what a sweep optimizes
    process: int = 0  # that began it
    began: float = 0.0  # time of the call
    seconds: float = 0.0  # of all calls in which something was trained

    @classmethod
    def load(cls, run_dir: Path) -> Self | None:
        """That of a run directory; None if there is none."""
        try:
            content = json.loads((run_dir / FILE_NAME).read_text(encoding="utf-8"))
            return cls(**content | {"overrides": tuple(content["overrides"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def save(self, run_dir: Path) -> None:
        """Write it; a disk that is full is no reason to end a training."""
        with contextlib.suppress(OSError), atomic_write(run_dir / FILE_NAME) as draft:
            draft.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def stage_dirs(self, run_dir: Path) -> dict[str, StageDir]:
        """The directories of its stages."""
        return {name: StageDir(run_dir / path) for name, path in self.stages.items()}


def recorded(
    cfg: DictConfig, overrides: Sequence[str], work: Callable[[], float | None]
) -> float | None:
    """Do a run's work, and record what becomes of it; what `work` returns."""
    try:
        check_config(cfg)
    except UserError as error:
        if isinstance(cfg.paths.run_dir, str):
            failed = RunRecord(tuple(overrides), {}, FAILED, str(error), began=time.time())
            failed.save(Path(cfg.paths.run_dir))
        raise
    run_dir, dirs = Path(cfg.paths.run_dir), stage_dirs(cfg)
    chosen = stage_names(cfg)
    own = [dirs[name].path for name in chosen if dirs[name].path.parent == run_dir]
    begun = any(any(path.glob("*.ckpt")) or any(path.glob("stage.json")) for path in own)
    before = RunRecord.load(run_dir) if begun else None
    record = RunRecord(
        overrides=tuple(overrides),
        stages={name: os.path.relpath(dirs[name].path, run_dir) for name in chosen},
        process=os.getpid(),
        began=time.time(),
        seconds=before.seconds if before else 0.0,
    )
    record.save(run_dir)
    value, state, reason = None, FAILED, ""
    try:
        value = work()
        state = RESUMED if begun else DONE
        if value is not None and math.isnan(value):
            value, state = None, PRUNED
    except KeyboardInterrupt:
        state = STOPPED
        raise
    except SystemExit as end:
        state = STOPPED if isinstance(end.code, int) and end.code >= 128 else FAILED  # by a signal
        reason = "its processes failed" if state == FAILED else ""
        raise
    except Exception as error:
        reason = find_mistake(error) or f"{type(error).__name__}: {error}"
        raise
    finally:
        # What was trained may lie elsewhere: streams that jobs of a sweep share.
        files = [file for name in chosen for file in dirs[name].path.glob("*.*")]
        if any(file.stat().st_mtime >= record.began for file in files):
            record = replace(record, seconds=record.seconds + time.time() - record.began)
        elif state == RESUMED and before:  # nothing was left to do
            state = before.state if before.state in (DONE, RESUMED, PRUNED) else DONE
        replace(record, state=state, reason=reason, value=value).save(run_dir)
    return math.nan if state == PRUNED else value
