"""The directory of one stage of a run: what is finished, what can be continued."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.evaluation.scores import Accuracy
from src.models.build import Plan
from src.training.plan import difference


@dataclass(frozen=True)
class StageDir:
    """Files of one stage: checkpoint, scores, logs, and the record that says it is finished."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The weights after the last complete pass; the final ones once the stage is finished."""
        return self.path / "last.ckpt"

    def scores(self, stream: str | None = None) -> Path:
        """Video-level scores of the net, or of one of its streams."""
        return self.path / (f"scores_{stream}.csv" if stream else "scores.csv")

    @property
    def record(self) -> Path:
        """Written last: a stage is finished when it is there."""
        return self.path / "stage.json"

    def finish(self, plan: Plan, accuracy: Accuracy, protocol: str) -> None:
        """Record that the stage is finished."""
        content = {"plan": plan, "protocol": protocol, "accuracy": asdict(accuracy)}
        draft = self.record.with_suffix(".part")
        draft.write_text(json.dumps(content, indent=2) + "\n")
        draft.replace(self.record)

    def finished(self) -> dict[str, Any] | None:
        """The record, None if the stage is not finished."""
        if not (self.record.is_file() and self.checkpoint.is_file()):
            return None
        try:
            return dict(json.loads(self.record.read_text()))
        except ValueError as error:
            raise UserError(f"{self.record} is broken ({error}): delete it") from error

    def check_same(self, plan: Plan, earlier: Plan, force: bool) -> None:
        """Refuse to go on with what was trained under another plan."""
        changed = difference(plan, earlier)
        if changed and not force:
            raise UserError(
                f"{self.path} was trained with another config ({changed} there): "
                "give a new paths.run_dir, or resume=force to use it all the same"
            )
