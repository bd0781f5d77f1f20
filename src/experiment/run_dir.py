"""The directory of one stage of a run: what is finished, what can be continued."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from src.experiment.checkpoint import CheckpointMetadata
from src.experiment.config import StageConfig, config_diff
from src.models.temporal import STREAMS
from src.utils.commands import shown_command
from src.utils.errors import UserError
from src.utils.files import atomic_write

log = logging.getLogger(__name__)
LAST, BEST = "last.ckpt", "best.ckpt"


def previous(checkpoint: Path) -> Path:
    """Where the checkpoint before this one is kept."""
    return checkpoint.with_name(f"previous{checkpoint.suffix}")


class StageDir:
    """Files of one stage: checkpoint, scores, logs, and the record that says it is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / LAST  # what training resumes from
        self.best = path / BEST  # of the epoch that was best in validation; with checkpoint=best
        self.samples = path / "samples"  # pictures of test videos, see `src.evaluation.samples`
        self.lock = path / ".lock"  # held while it is trained
        self.record = path / "stage.json"  # written last: a stage is finished when it is there

    def tested(self, config: StageConfig) -> Path:
        """The checkpoint that a config has tested, and later stages and commands use."""
        return self.best if config.get("checkpoint") == "best" else self.checkpoint

    @property
    def final(self) -> Path:
        """The tested checkpoint, by the record of the finished stage."""
        return self.tested((self.read() or {}).get("config", {}))

    def scores(self, stream: str | None = None) -> Path:
        """Video-level scores of the net, or of one of its streams."""
        return self.path / (f"scores_{stream}.csv" if stream else "scores.csv")

    def finish(
        self, config: StageConfig, stages: Mapping[str, "StageDir"], about: Mapping[str, Any]
    ) -> None:
        """Record that this one of the stages is finished, and what `src.report` tells of it."""
        # from here, so that all of them can be moved
        paths = {name: os.path.relpath(other.path, self.path) for name, other in stages.items()}
        content = {"config": config, "stage_dirs": paths, **about}
        with atomic_write(self.record) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n")
        previous(self.checkpoint).unlink(missing_ok=True)  # no training resumes from here

    def finished(self) -> dict[str, Any] | None:
        """The record, None if the stage is not finished."""
        record = self.read()
        if record is None or record["config"]["network"] is None:  # late fusion, no checkpoint
            return record
        return record if self.tested(record["config"]).is_file() else None

    def read(self) -> dict[str, Any] | None:
        """The record, None if there is none; the checkpoint may have been moved away.

        Raises:
            UserError: it is broken.
        """
        if not self.record.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
            record["config"]["network"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(
                f"{self.record} is not the record of a finished stage "
                f"({type(error).__name__}: {error}): delete it"
            ) from error
        return record

    def check_complete(self) -> None:
        """Refuse to train a finished stage again because its weights are gone."""
        if self.record.is_file() and not self.final.is_file():
            raise UserError(
                f"{self.path} is finished, but {self.final.name} is gone: put it back, leave "
                f"the stage out with skip_stages={self.path.name}, or delete {self.record} to "
                "train it again"
            )

    def begun(self) -> tuple[Path, StageConfig] | None:
        """The checkpoint that training resumes from and its config, None if there is none.

        Where the last one is damaged or of something else, it is the one before.

        Raises:
            UserError: there is none that training can resume from.
        """
        broken: UserError | None = None
        for checkpoint in filter(Path.is_file, (self.checkpoint, previous(self.checkpoint))):
            try:
                config = self._config_of(checkpoint)
            except UserError as error:
                broken = broken or error
                continue
            if broken:
                log.warning("%s; resuming from the one before, %s", broken, checkpoint)
            return checkpoint, config
        if broken:
            raise broken
        return None

    def _config_of(self, checkpoint: Path) -> StageConfig:
        hint = "delete it to train this stage from its start"
        try:
            metadata, content = CheckpointMetadata.read(str(checkpoint))
        except UserError as error:
            raise UserError(f"{error}: {hint}") from error
        if "optimizer_states" not in content or "loops" not in content:
            raise UserError(
                f"{checkpoint} holds weights, but not the state of a training: {hint}, or "
                f"move it away and give its new path as stages.{self.path.name}.init_from"
            )
        return metadata.config

    def check_resumable(self, config: StageConfig, earlier: StageConfig, force: bool) -> None:
        """Refuse to resume, or to take for finished, what was trained with another config."""
        changed = config_diff(config, earlier)
        if not changed or force:
            return
        hint = "give a new paths.run_dir, or resume=force to use it all the same"
        tested_otherwise = changed.startswith(("protocol.", "data.test.part"))
        if tested_otherwise and self.record.is_file():
            hint = (
                f"{shown_command('evaluate', ('ckpt_path', self.final))} with protocol=... or "
                "+data.test.part=... tests it again, resume=force uses the results that are there"
            )
        raise UserError(f"{self.path} was trained with another config ({changed} there): {hint}")


def stage_dirs(cfg: DictConfig) -> dict[str, StageDir]:
    """The directory of every stage of a composed config; those of the streams may lie elsewhere."""
    return {
        name: StageDir(Path(cfg.paths["streams_dir" if name in STREAMS else "run_dir"]) / name)
        for name in cfg.stages
    }
