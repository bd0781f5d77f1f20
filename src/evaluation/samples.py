"""Some videos of a test with what the network saw and predicted, for reports and dashboards.

stage_dir/samples/
  samples.json      what they are and what each classifier says
  1.jpg  1.mp4      frames with their flow in colors; the frames as a small film
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from src.data.datamodule import VideoDataModule
from src.evaluation.analysis import UNREADABLE, predictions
from src.evaluation.protocol import TestProtocol
from src.evaluation.scores import VideoScores
from src.media.images import encode_jpeg
from src.media.video_writer import VideoWriter
from src.plotting.clips import draw_clip, images_of
from src.utils.errors import UserError
from src.utils.files import atomic_write, is_special

log = logging.getLogger(__name__)
NET = "net"  # the full network, beside the names of its streams
HEIGHT = 112  # pixels of a frame in pictures and films
RATE = 6  # frames per second: a test sees a few frames of the full video


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of a video: a class, its probability, and that of the label."""

    prediction: str
    probability: float
    of_label: float


@dataclass(frozen=True)
class Sample:
    """One video; predictions are the net's and, if there are several, each classifier's."""

    video: str
    label: str
    predictions: Mapping[str, Prediction]
    picture: Path
    film: Path

    @property
    def right(self) -> bool:
        """Whether the net is right."""
        return self.predictions[NET].prediction == self.label

    @property
    def caption(self) -> str:
        """In words: which video, and what each classifier says of it."""
        predictions = "; ".join(
            f"{'' if name == NET else f'{name}: '}{top.prediction} {top.probability:.0%}"
            for name, top in self.predictions.items()
        )
        right = "right" if self.right else "wrong"
        return f"{right}: {self.video} is {self.label}. Predictions: {predictions}"


def choose_samples(scores: VideoScores, count: int, seed: int) -> list[int]:
    """Places in `scores` of at most `count` videos: half of them wrong ones, if there are as many.

    Wrong are those whose label has the lowest score below the best, each pair of label and
    prediction once before any comes twice; right ones are drawn.
    """
    labels, predicted = torch.tensor(scores.labels), predictions(scores)
    read = predicted != UNREADABLE
    margin = scores.scores.amax(1) - scores.scores.gather(1, labels[:, None]).squeeze(1)
    by_margin = margin.nan_to_num().argsort(descending=True, stable=True).tolist()
    seen: Counter[tuple[int, int]] = Counter()
    turns: list[tuple[int, int]] = []
    for place in by_margin:
        if read[place] and predicted[place] != labels[place]:
            pair = (scores.labels[place], int(predicted[place]))
            turns.append((seen[pair], place))
            seen[pair] += 1
    wrong = [place for _, place in sorted(turns, key=lambda turn: turn[0])]
    right = (predicted == labels).nonzero().flatten().tolist()
    right = np.random.default_rng(seed).permutation(right).astype(int).tolist()
    kept = min(len(wrong), max(count // 2, count - len(right)))
    return wrong[:kept] + right[: count - kept]


def save_samples(
    folder: Path,
    data: VideoDataModule,
    scores: VideoScores,
    protocol: TestProtocol,
    count: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> list[Sample]:
    """Read `count` videos of a test again, draw them, and say how they were classified.

    They are those of `choose_samples`; one that can no longer be read is skipped. The device is
    where flow is computed, if it is computed on one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    for place in choose_samples(scores, count, seed):
        video = scores.videos[place]
        try:
            clip = data.test_video(video, device)
        except (OSError, UserError, RuntimeError, ValueError) as error:  # whatever decoders raise
            log.warning("no picture of %s: %s", video, error)
            continue
        number = len(samples) + 1
        picture, film = folder / f"{number}.jpg", folder / f"{number}.mp4"
        images = images_of(clip)
        drawn = _resized(draw_clip(images.values()), len(images) * HEIGHT)
        picture.write_bytes(encode_jpeg(drawn, quality=88))
        frames = [_resized(image, HEIGHT) for image in next(iter(images.values()))]
        with closing(VideoWriter(film, frames[0].shape[:2], RATE, crf=23)) as writer:
            for frame in frames:
                writer.write(frame)
        predictions = {
            name: _prediction(part.scores[place], scores.labels[place], protocol, scores.classes)
            for name, part in {NET: scores, **scores.classifiers()}.items()
        }
        label = scores.classes[scores.labels[place]]
        samples.append(Sample(video, label, predictions, picture, film))
    content = [asdict(s) | {"picture": s.picture.name, "film": s.film.name} for s in samples]
    with atomic_write(folder / "samples.json") as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return samples


def load_samples(folder: Path) -> list[Sample]:
    """What `save_samples` has written there; nothing where there is nothing, or no such thing."""
    if is_special(folder / "samples.json"):
        return []
    try:
        content = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
        return [
            Sample(
                str(entry["video"]),
                str(entry["label"]),
                _loaded(entry["predictions"]),
                # names only: the file may come from elsewhere
                picture=folder / Path(entry["picture"]).name,
                film=folder / Path(entry["film"]).name,
            )
            for entry in content
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s/samples.json cannot be read: %s", folder, error)
        return []


def _loaded(entries: Any) -> dict[str, Prediction]:
    """Predictions of a file that may come from elsewhere; that of the full network is needed."""
    predictions = {
        str(name): Prediction(
            str(entry["prediction"]), float(entry["probability"]), float(entry["of_label"])
        )
        for name, entry in entries.items()
    }
    return {NET: predictions[NET], **predictions}


def _prediction(
    scores: torch.Tensor, label: int, protocol: TestProtocol, classes: tuple[str, ...]
) -> Prediction:
    shares = protocol.probabilities(scores)
    best = int(shares.argmax())
    return Prediction(classes[best], round(float(shares[best]), 4), round(float(shares[label]), 4))


def _resized(image: Any, height: int) -> Any:
    """With this height and an even width, which encoders want."""
    size = round(image.shape[1] * height / image.shape[0] / 2) * 2, height
    shrinks = height < image.shape[0]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
