"""The directory of one stage of a run: what is finished, what can be continued."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.commands import shown_command
from src.errors import UserError
from src.evaluation.scores import Accuracy, scores_file
from src.models.build import Plan
from src.models.checkpoints import Description
from src.models.temporal import STREAMS
from src.training.checkpoint_io import previous
from src.training.plan import difference
from src.whole_files import whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageDir:
    """Files of one stage: checkpoint, scores, logs, and the record that says it is finished."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """What training goes on from; the final weights once the stage is finished."""
        return self.path / "last.ckpt"

    @property
    def failed_step(self) -> Path:
        """What `src.training.replay` repeats, if a step has stopped the training."""
        return self.path / "failed_step.ckpt"

    def scores(self, stream: str | None = None) -> Path:
        """Video-level scores of the net, or of one of its streams."""
        return scores_file(self.path, stream)

    @property
    def samples(self) -> Path:
        """Pictures of some test videos and what is said of them, see `src.evaluation.samples`."""
        return self.path / "samples"

    @property
    def record(self) -> Path:
        """Written last: a stage is finished when it is there."""
        return self.path / "stage.json"

    def finish(
        self, plan: Plan, accuracy: Accuracy, protocol: str, about: Mapping[str, Any]
    ) -> None:
        """Record that the stage is finished.

        Args:
            plan: what was trained.
            accuracy: of the net.
            protocol: of the test.
            about: what else `src.report` tells: experiment, seed, command, version, ...
        """
        content = {"plan": plan, "protocol": protocol, "accuracy": asdict(accuracy), **about}
        with whole(self.record) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n")
        previous(self.checkpoint).unlink(missing_ok=True)  # nothing goes on from here

    def finished(self) -> dict[str, Any] | None:
        """The record, None if the stage is not finished."""
        if not (self.record.is_file() and self.checkpoint.is_file()):
            return None
        try:
            return dict(json.loads(self.record.read_text()))
        except ValueError as error:
            raise UserError(f"{self.record} is broken ({error}): delete it") from error

    def check_whole(self) -> None:
        """Refuse to train a finished stage again because its weights are gone."""
        if self.record.is_file() and not self.checkpoint.is_file():
            raise UserError(
                f"{self.path} is finished, but {self.checkpoint.name} is gone: put it back, leave "
                f"the stage out with skip={self.path.name}, or delete {self.record} to train it "
                "again"
            )

    def begun(self) -> tuple[Path, Plan] | None:
        """The checkpoint that training goes on from and its plan, None if there is none.

        Where the last one is damaged or of something else, it is the one before.

        Raises:
            UserError: there is none that training can go on from.
        """
        broken: UserError | None = None
        for checkpoint in (self.checkpoint, previous(self.checkpoint)):
            if not checkpoint.is_file():
                continue
            try:
                plan = self._plan_of(checkpoint)
            except UserError as error:
                broken = broken or error
                continue
            if broken:
                log.warning("%s; going on from the one before, %s", broken, checkpoint)
            return checkpoint, plan
        if broken:
            raise broken
        return None

    def _plan_of(self, checkpoint: Path) -> Plan:
        mend = "delete it to train this stage from its start"
        try:
            description, content = Description.read(str(checkpoint))
        except UserError as error:
            raise UserError(f"{error}: {mend}") from error
        if "optimizer_states" not in content or "loops" not in content:
            raise UserError(
                f"{checkpoint} holds weights, but not the state of a training: {mend}, or "
                f"move it away and give its new path as stages.{self.path.name}.start_from"
            )
        return description.plan

    def check_tested_by(self, protocol: str, record: dict[str, Any], force: bool) -> None:
        """Refuse another test protocol than the record's: training the stage again is no mend."""
        if record["protocol"] != protocol and not force:
            raise UserError(
                f"{self.path} was tested by another protocol ({record['protocol']}, not "
                f"{protocol}): {shown_command('evaluate', ('ckpt_path', self.checkpoint))} with a "
                "protocol=... tests it again, resume=force goes on with the results that are there"
            )

    def check_same(self, plan: Plan, earlier: Plan, force: bool) -> None:
        """Refuse to go on with what was trained under another plan."""
        changed = difference(plan, earlier)
        if changed and not force:
            raise UserError(
                f"{self.path} was trained with another config ({changed} there): "
                "give a new paths.run_dir, or resume=force to use it all the same"
            )


def stage_dirs(config: Mapping[str, Any]) -> dict[str, StageDir]:
    """The directory of every stage of a config; those of the streams may lie elsewhere."""
    paths = config["paths"]
    return {
        name: StageDir(Path(paths["streams_dir" if name in STREAMS else "run_dir"]) / name)
        for name in config["stages"]
    }
