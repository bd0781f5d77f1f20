"""Weights & Biases: one run per stage, and what it shows of the stage's test."""

import logging
import netrc
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from omegaconf import OmegaConf
from pytorch_lightning.loggers import WandbLogger
from wandb.env import DATA_DIR, get_data_dir

from src.evaluation.analysis import (
    Fusion,
    class_accuracies,
    draw_scores,
    hardest_confusions,
    labels_by_video,
    predictions,
)
from src.evaluation.samples import Sample
from src.evaluation.scores import VideoScores, video_accuracies
from src.training.dashboard import Tested, fusion_key
from src.utils.errors import UserError, short_name
from src.utils.files import atomic_write
from src.utils.ranks import own_rank

log = logging.getLogger(__name__)
LONGEST = 128  # characters of a name on W&B


class StageRun(WandbLogger):
    """A W&B run for one stage; offline, without a prompt, if no key is set.

    A stage that continues after a stop continues with its run.

    Args:
        save_dir: the stage's folder; its name is the job type.
        name, group: of the run, before its stage, and of the runs of all stages.
        checkpoints: whether the final checkpoint becomes an artifact.
        project, tags, entity: W&B's.

    Raises:
        UserError: W&B takes no such project, or cannot write its files.
    """

    def __init__(
        self,
        save_dir: str,
        project: str,
        group: str,
        name: str,
        tags: Sequence[str] | None,
        checkpoints: bool,
        entity: str | None = None,
    ) -> None:
        if len(project) > LONGEST or re.search(r"[/\\#?%:]", project):
            raise UserError(
                f"project={project}: a project of W&B has at most {LONGEST} characters, and none "
                "of / \\ # ? % : among them"
            )
        if own_rank() == 0:
            _check_data_dir()
        logging.getLogger("wandb").propagate = False  # its failures are reported once, not by line
        stage = Path(save_dir).name
        if offline := not _has_wandb_key():
            log.info(
                "W&B: no API key, so this run is written to %s/wandb; wandb sync uploads", save_dir
            )
        super().__init__(
            save_dir=save_dir,
            project=project,
            entity=entity,
            name=short_name(f"{name}/{stage}", name, LONGEST),
            group=short_name(group, group, LONGEST),
            job_type=stage,
            tags=tags,
            offline=offline,
            id=_run_id(Path(save_dir) / "wandb_id"),
            resume=None if offline else "allow",
            settings=wandb.Settings(quiet=True),
        )
        self.keeps_checkpoints = checkpoints

    def show_test(self, tested: Tested) -> None:
        """Log tables and pictures of a tested stage, and keep its files as artifacts."""
        shown: dict[str, Any] = {"test/videos": _samples_table(tested.samples)}
        for name, figure in draw_scores(tested.scores, tested.fused).items():
            shown[f"test/{name}"] = wandb.Image(figure)
        shown["test/hardest_confusions"] = wandb.Table(
            ["label", "prediction", "videos", "of"],
            [[c.label, c.prediction, c.videos, c.of] for c in hardest_confusions(tested.scores)],
        )
        bars = wandb.Table(
            ["class", "accuracy", "videos"],
            [[c.name, c.percent, c.videos] for c in class_accuracies(tested.scores)],
        )
        shown["test/class_accuracy_bars"] = wandb.plot.bar(
            bars, "class", "accuracy", title="Videos of each class that are right, %"
        )
        if tested.fused:
            shown[f"test/{fusion_key(tested.fused)}/changes"] = _changes_table(tested.fused)
        self.experiment.log(shown)
        self._keep_files(tested)

    def _keep_files(self, tested: Tested) -> None:
        metadata, config = tested.metadata, tested.metadata.config
        name = f"{config['name']}-{config['stage']}-split{metadata.split}-seed{config['seed']}"
        name = artifact_name(name, LONGEST - len("-scores"))
        about = {
            "version": metadata.version,
            "split": metadata.split,
            "protocol": tested.scores.protocol,
            "top1": video_accuracies(tested.scores).top1,
        }
        scores = wandb.Artifact(f"{name}-scores", type="scores", metadata=about)
        for file in tested.score_files:
            scores.add_file(str(file))
        self.experiment.log_artifact(scores)
        if self.keeps_checkpoints:
            model = wandb.Artifact(name, type="model", metadata=about)
            # immutable: not copied before it is uploaded; a finished stage's does not change
            model.add_file(str(tested.checkpoint), policy="immutable")
            with model.new_file("config.yaml", mode="w") as file:
                file.write(OmegaConf.to_yaml(config))
            self.experiment.log_artifact(model)


def artifact_name(name: str, longest: int = LONGEST) -> str:
    """A name with the characters and of the length that W&B allows for artifacts."""
    return short_name(re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII), name, longest)


def _check_data_dir() -> None:
    """Find out now whether W&B can write what it uploads; it does so after the test."""
    folder = Path(get_data_dir(), "artifacts", "staging")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"W&B cannot write to {folder} ({error.strerror}): set {DATA_DIR} to a folder that it "
            "can write to"
        ) from error


def _run_id(file: Path) -> str:
    """The id that the stage's earlier runs had, else a new one; in a W&B sweep the agent's."""
    given = os.environ.get("WANDB_RUN_ID")
    if given and os.environ.get("WANDB_SWEEP_ID"):
        return given
    if file.is_file():
        return file.read_text().strip()
    run_id = secrets.token_hex(4)
    if own_rank() == 0:  # whose run it is
        with atomic_write(file) as draft:
            draft.write_text(run_id)
    return run_id


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1]
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _samples_table(samples: Sequence[Sample]) -> wandb.Table:
    classifiers = list(samples[0].predictions) if samples else []
    columns = ["video", "clip", "frames and flow", "label", "right"]
    for name in classifiers:
        columns += [name, f"{name}: probability", f"{name}: of the label"]
    table = wandb.Table(columns)
    for sample in samples:
        predictions = [sample.predictions[name] for name in classifiers]
        table.add_data(
            sample.video,
            wandb.Video(str(sample.film), format="mp4"),
            wandb.Image(str(sample.picture)),
            sample.label,
            sample.right,
            *(value for s in predictions for value in (s.prediction, s.probability, s.of_label)),
        )
    return table


def _changes_table(fused: Fusion) -> wandb.Table:
    after = _predicted(fused.scores)
    label = labels_by_video(fused.scores)
    table = wandb.Table(["video", "label", "change", "against", "prediction before", fused.name])
    for part, changed in fused.changes().items():
        before = _predicted(fused.parts[part])
        for change, videos in (("corrected", changed.corrected), ("broken", changed.broken)):
            for video in videos:
                table.add_data(video, label[video], change, part, before[video], after[video])
    return table


def _predicted(scores: VideoScores) -> dict[str, str]:
    names = ("" if best < 0 else scores.classes[best] for best in predictions(scores).tolist())
    return dict(zip(scores.videos, names, strict=True))
