"""Features of videos: what a checkpoint's classifiers see, averaged by its protocol.

Videos go the way that they go in testing. Only the classifiers are taken away: what would be the
mean of logits then is the mean of what they see.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from src.data.datamodule import VideoDataModule
from src.data.faults import UNREADABLE, Faults
from src.evaluation.evaluate import data_of, load_module
from src.experiment.checkpoint import CheckpointMetadata
from src.exporting.network import origin
from src.flow.settings import FlowSettings
from src.media.frames_in_order import is_stream
from src.media.video_file import VideoFile
from src.models.metrics import on_cpu
from src.models.modules import Batch, VideoClassifier
from src.models.resnet import ResNet
from src.prediction.inputs import find_inputs
from src.prediction.predictor import Predictor
from src.utils.console import progress
from src.utils.errors import UserError
from src.utils.files import atomic_write
from src.utils.ranks import of_all_ranks
from src.utils.values import check_choices

LISTS = ("train", "val", "test")
NO_LABEL = -1


@dataclass
class Features:
    """One vector of each stream for every video."""

    about: dict[str, Any]  # of the network and the protocol, plain
    class_names: list[str]  # that labels are indices into
    # A video's name, or path if it is on no list; its list or "input"; its label, -1 where unknown;
    # and a vector (C,) by stream.
    rows: list[tuple[str, str, int, dict[str, Tensor]]] = field(default_factory=list)
    faults: list[Faults] = field(default_factory=list)  # what was skipped

    def streams(self) -> dict[str, Tensor]:
        """Features (N, C) of each stream."""
        vectors = [row[3] for row in self.rows]
        return {
            name: torch.stack([each[name] for each in vectors]).float().cpu() for name in vectors[0]
        }

    def __str__(self) -> str:
        """How many videos, how long the vectors, by which protocol."""
        sizes = ", ".join(f"{rows.shape[1]} of {name}" for name, rows in self.streams().items())
        return f"{len(self.rows)} videos, features: {sizes}\nprotocol: {self.about['protocol']}"

    def save(self, path: Path) -> None:
        """Write arrays video, list, label, class_names, about (JSON), and (N, C) of each stream.

        Raises:
            UserError: there is no video.
        """
        if not self.rows:
            reasons = "; ".join(map(str, self.faults))
            raise UserError(f"there are no features to write{reasons and ': '}{reasons}")
        videos, lists, labels, _ = zip(*self.rows, strict=True)
        arrays: dict[str, Any] = {"video": videos, "list": lists, "label": labels}
        arrays |= {"class_names": self.class_names, "about": json.dumps(self.about)}
        arrays |= {name: vectors.numpy() for name, vectors in self.streams().items()}
        # To a name, numpy adds an ending.
        with atomic_write(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays)


def load_without_classifiers(
    ckpt_path: str, data_changes: Mapping[str, Any], protocol: Mapping[str, Any]
) -> tuple[VideoClassifier, CheckpointMetadata]:
    """What `load_module` returns, but with features (B, T', C) in the place of logits.

    The protocol's average is always that of the features.

    Raises:
        UserError: the checkpoint cannot be used.
    """
    protocol = {**protocol, "average_over": "logits"}
    module, metadata = load_module(ckpt_path, data_changes, protocol)
    streams = [part for part in module.net.modules() if isinstance(part, ResNet)]
    if not streams:
        raise UserError(f"{ckpt_path} has no ResNet, whose features these would be")
    for stream in streams:
        stream.fc = nn.Identity()  # type: ignore[assignment]
    return module, metadata


def features_of_lists(
    ckpt_path: str,
    lists: Sequence[str],
    data_changes: Mapping[str, Any],
    trainer: pl.Trainer,
    protocol: Mapping[str, Any],
) -> Features:
    """Features of all videos of one or more parts ("train", "val", "test") of a checkpoint's split.

    Videos that cannot be read are skipped, and listed in the features' faults.

    Raises:
        UserError: an unknown or empty list, or the checkpoint and the data do not go together.
    """
    try:
        check_choices("lists", lists, LISTS)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not lists:
        raise UserError(f"lists=[]: choose from {', '.join(LISTS)}")
    module, metadata = load_without_classifiers(ckpt_path, data_changes, protocol)
    data = data_of(metadata, ckpt_path)
    features = Features(_about(module, metadata), list(data.videos.classes))
    for part in lists:
        data.test_part = part
        if not data.tested:
            raise UserError(f"lists: this checkpoint's data have no {part} videos: leave it out")
        trainer.test(_Extractor(module, data, features), datamodule=data, verbose=False)
    return features


def features_of_files(
    ckpt_path: str,
    named: str | Sequence[str],
    data_changes: Mapping[str, Any],
    protocol: Mapping[str, Any],
    flow: FlowSettings | None,
    device: str | torch.device,
) -> Features:
    """Features of video files, named as for `src.predict`; labels are unknown, flow is computed.

    Raises:
        UserError: nothing is named, or the checkpoint cannot be used.
    """
    sources, failed = find_inputs([named] if isinstance(named, str) else [str(n) for n in named])
    for source in filter(is_stream, sources):
        raise UserError(f"input {source} has no end: features are of full videos")
    module, metadata = load_without_classifiers(ckpt_path, data_changes, protocol)
    predictor = Predictor(module, metadata, flow, device)
    made_by = {"flow": asdict(predictor.flow) if predictor.flow else None}
    features = Features(_about(module, metadata) | made_by, metadata.class_names)
    with progress() as bar:
        for source in bar.track(sources, description="features"):
            try:
                vectors = predictor.streams(VideoFile(source), source)
                features.rows.append((source, "input", NO_LABEL, vectors))
            except UNREADABLE as error:
                failed[source] = str(error)
    if failed:
        of = len(sources) + len(failed.keys() - set(sources))
        features.faults.append(Faults("videos cannot be read", of, failed))
    return features


def _about(module: VideoClassifier, metadata: CheckpointMetadata) -> dict[str, Any]:
    views = module.protocol.name.partition(";")[0]  # without the part: each video has its own
    return origin(metadata) | {
        "features": "pooled activations before dropout and fc, mean over views and time steps",
        "protocol": views.removesuffix("logits") + "features",
    }


class _Extractor(pl.LightningModule):
    """Adds the features of each video of the data's `test_part`, of all ranks, sorted by name."""

    def __init__(self, module: VideoClassifier, data: VideoDataModule, features: Features) -> None:
        super().__init__()
        self.module, self.data, self.features = module, data, features
        self.rows: list[tuple[str, str, int, dict[str, Tensor]]] = []

    def on_test_epoch_start(self) -> None:
        self.data.errors.unreadable["test"].clear()

    def test_step(self, batch: Batch, _: int) -> None:  # noqa: PT019
        streams = on_cpu(self.module.video_scores(batch))
        for i, video in enumerate(batch["video"]):
            vectors = {name: rows[i] for name, rows in streams.items()}
            self.rows.append((video, self.data.test_part, int(batch["label"][i]), vectors))

    def on_test_epoch_end(self) -> None:
        part = self.data.test_part
        rows = [row for rows in of_all_ranks(self.rows) for row in rows]
        self.features.rows += sorted(rows, key=lambda row: row[0])
        errors = self.data.errors
        unreadable = errors.missing[part] | errors.of_all_ranks("test")["test"]
        self.features.faults += errors.faults(part, "are missing or cannot be read", unreadable)
