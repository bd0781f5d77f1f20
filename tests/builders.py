"""What tests build: videos, images, networks, checkpoints, scores and finished runs."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from src.data.datamodule import VideoDataModule, VideoTest
from src.data.transforms import CornerJitterCrop
from src.data.videos import Split
from src.evaluation.protocol import TestProtocol
from src.evaluation.scores import VideoScores
from src.experiment.build import build_module, build_net
from src.experiment.checkpoint import KEY, CheckpointMetadata
from src.experiment.config import stage_config
from src.flow.settings import FlowSettings
from src.media.images import FlowImages, open_images
from src.media.sources import FlowSource, RGBSource, Uint8
from src.models.connection import ADDITIVE, Connection
from src.models.modules import Batch, JointModule, StreamModule, VideoClassifier
from src.models.normalize import Normalize
from src.models.resnet import appearance_stream, motion_stream
from src.models.two_stream import TwoStreamResNet
from tests.conftest import compose_config

# --- videos, images, clips -------------------------------------------------------------------

# Real clips: not part of the project, the tests on them are skipped where they are absent.
CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"


def write_video(
    path: Path, frames: npt.NDArray[np.uint8], fps: int = 25, codec: str = "libx264"
) -> Path:
    """Write RGB frames (N, H, W, 3), H and W even, nearly without loss; MPEG-4 without libx264."""
    codec = codec if codec in av.codecs_available else "mpeg4"
    quality = {"crf": "10"} if codec == "libx264" else {"qmin": "1", "qmax": "2"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=quality)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_flow(root: Path, video: str, fields: Uint8) -> Path:
    """Write quantized fields (N, H, W, 2) in the released layout, nearly without loss."""
    for component, images in zip("uv", np.moveaxis(fields, -1, 0), strict=True):
        folder = root / component / video
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images, start=1):
            file = folder / f"frame{number:06d}.jpg"
            assert cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return root


def dequantize(image: Uint8, bound: float = 20.0) -> npt.NDArray[np.float32]:
    """Invert `src.flow.algorithm.quantize` to within half a step, bound / 255 pixels."""
    return image.astype(np.float32) * np.float32(2.0 * bound / 255.0) - np.float32(bound)


def stored_flow(root: Path, video: str) -> FlowImages:
    """The flow of a video below `root`."""
    return FlowImages(open_images(root), video)


def frames_of(source: RGBSource, indices: Sequence[int]) -> Uint8:
    """Frames as one array (N, H, W, 3)."""
    return np.stack(list(source.rgb(indices)))


def fields_of(source: FlowSource, indices: Sequence[int]) -> Uint8:
    """Quantized fields as one array (N, H, W, 2)."""
    return np.stack([np.stack(field, axis=-1) for field in source.flow(indices)])


def randomise(net: nn.Module) -> None:
    """Make a net testable to rounding: float64, eval mode, nothing left at 0 or 1."""
    net.double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for centered in (module.running_mean, module.bias.data):
                centered.normal_(0, 0.2)
            for positive in (module.running_var, module.weight.data):
                positive.uniform_(0.4, 1.2)
        elif isinstance(module, nn.Linear):  # initially next to nothing
            module.weight.data.normal_()
            module.bias.data.normal_()


# Arguments of `VideoDataModule` for small clips of both modalities.
SMALL_DATA: dict[str, Any] = {
    "rgb": "videos",
    "flow": "flow",
    "split": 1,
    "num_classes": 2,
    "modalities": ["rgb", "flow"],
    "frames": 3,
    "flow_stack": 4,
    "short_side": 32,
    "crop": CornerJitterCrop(24),
    "crop_size": 24,
    "hflip": True,
    "test": VideoTest(5),
    "batch_size": 2,
    "loader": {"num_workers": 0},
    "seed": 7,
}


def small_datamodule(dataset: Callable[[], Split], **changes: Any) -> VideoDataModule:
    """A data module of `SMALL_DATA` with some changes, set up."""
    module = VideoDataModule(dataset, **SMALL_DATA | changes)
    module.prepare_data()
    module.setup()
    return module


def moving_texture(
    shift: tuple[float, float], frames: int, size: tuple[int, int] = (64, 96)
) -> npt.NDArray[np.uint8]:
    """Frames (N, H, W, 3) of a texture that moves by `shift` = (right, down) pixels per frame."""
    height, width = size
    noise = np.random.default_rng(0).uniform(0, 255, (2 * height, 2 * width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    texture = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    images = []
    for index in range(frames):
        # The window moves against the texture.
        x, y = width / 2 - index * shift[0], height / 2 - index * shift[1]
        matrix = np.array([[1, 0, -x], [0, 1, -y]])
        images.append(cv2.warpAffine(texture, matrix, (width, height)))
    grey = np.rint(np.stack(images)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


# --- networks, checkpoints -------------------------------------------------------------------

NUM_CLASSES, STACK, FRAMES, SIDE = 3, 2, 3, 96


def random_module(kind: str, connection: Connection = ADDITIVE, **options: Any) -> VideoClassifier:
    """A stream alone ("rgb", "flow") or a joint net ("joint") of random weights, in float64."""
    rgb, flow = appearance_stream(NUM_CLASSES, 26, 4), motion_stream(NUM_CLASSES, STACK, 26, 4)
    arguments: dict[str, Any] = {
        "normalize": Normalize(),
        "num_classes": NUM_CLASSES,
        "protocol": TestProtocol(FRAMES, SIDE, SIDE),
    }
    made: VideoClassifier
    if kind == "joint":
        made = JointModule(TwoStreamResNet(rgb, flow, connection, **options), **arguments)
    else:
        made = StreamModule(kind, rgb if kind == "rgb" else flow, **arguments)
    randomise(made.net)
    return made.double().eval()


def random_batch(count: int = 2) -> Batch:
    """A labelled uint8 batch."""
    size = (FRAMES, SIDE, SIDE)
    return {
        "rgb": torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (count, 2 * STACK, *size), dtype=torch.uint8),
        "label": torch.arange(count) % NUM_CLASSES,
        "video": [f"video_{number}" for number in range(count)],
    }


def random_checkpoint(path: Path, stage: str, *overrides: str) -> Path:
    """A checkpoint of a stage of an experiment, narrow, with random weights."""
    cfg = compose_config("train", "model.backbone.width=4", *overrides)
    config = stage_config(cfg, stage)
    net = build_net(config)
    randomise(net)
    net.float()
    description = CheckpointMetadata(
        config=config,
        class_names=[f"class {number}" for number in range(config["data"]["num_classes"])],
        split=1,
        normalization=build_module(config, net).normalize.describe(),
        flow=asdict(FlowSettings()),
    )
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights, KEY: asdict(description)}, path)
    return path


# --- scores ----------------------------------------------------------------------------------

CLASS_NAMES = ["brush_hair", "kick, ball", "sword"]
VIDEO_NAMES = ['a "trick"_(1)#&!;[x]', "b, with a comma", "c", "ä"]
PROTOCOL = "25 full frames + flip at 256 px, mean of logits"


def random_scores(
    videos: Sequence[str] = VIDEO_NAMES, classes: Sequence[str] = CLASS_NAMES, seed: int = 0
) -> VideoScores:
    """Scores of two streams and their mean; labels go round."""
    random = torch.Generator().manual_seed(seed)
    streams = {
        name: torch.randn(len(videos), len(classes), generator=random)
        for name in ("appearance", "motion")
    }
    mean = (streams["appearance"] + streams["motion"]) / 2
    labels = [place % len(classes) for place in range(len(videos))]
    return VideoScores(list(videos), labels, mean, streams, tuple(classes), PROTOCOL)


def reordered(scores: VideoScores, order: list[int]) -> VideoScores:
    """The same videos in another order, or some of them."""
    return replace(
        scores,
        videos=[scores.videos[i] for i in order],
        labels=[scores.labels[i] for i in order],
        scores=scores.scores[order],
        streams={name: rows[order] for name, rows in scores.streams.items()},
    )


# --- finished runs ---------------------------------------------------------------------------

Row = Sequence[float]


def config_of(stage: str, split: int = 1, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A stage's config as its record has it; `changes` are keys, merged into mappings.

    Keys of `changes` are those of the top level, and `net` is the network that the stage trains.
    """
    joint = stage.startswith("joint")
    network = "net" if joint else stage
    net = {
        "_target_": "src.models.two_stream.TwoStreamResNet",
        "appearance": {"_target_": "src.models.resnet.appearance_stream", "width": 8},
        "connection": {"_target_": "src.models.connection.Connection", "kind": "additive"},
        "temporal_filters": {"kind": "inflated"},
    }
    return {
        "stage": stage,
        "name": "e",
        "seed": seed,
        "network": network,
        "init_from": {"appearance": "appearance", "motion": "motion"} if joint else None,
        "model": {network: net | changes.pop("net", {})},
        "data": {
            "_target_": "src.data.datamodule.VideoDataModule",
            "dataset": {"_target_": "src.data.two_movers.read_two_movers", "root": "/a", "seed": 0},
            "rgb": "videos",
            "flow": "/a/flow",
            "flow_settings": None,
            "modalities": ["rgb", "flow"],
            "split": split,
            "seed": seed,
            "val_fraction": None,
            "test": {"part": "test"},
            "loader": {"num_workers": seed},
            "batch_size": 20,
        }
        | changes.pop("data", {}),
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05} | changes.pop("optimizer", {}),
        "max_epochs": 6,
        "effective_batch_size": 20,
        **changes,
    }


def write_stage(
    folder: Path,
    top1: float,
    config: Mapping[str, Any] | None = None,
    scores: Mapping[str, Row] | None = None,
    experiment: str | None = None,
    **about: Any,
) -> Path:
    """Write the record of a finished stage; `folder` ends in <experiment>/split<k>_seed<n>/<stage>.

    Args:
        folder: of the stage.
        top1: percent; mean class accuracy is half of it, of 8 videos.
        config: of the stage; None makes one.
        scores: of each video, whose label is the first class where the name starts with "a".
        experiment: its name; None takes the folder's.
        about: more for the record.
    """
    folder.mkdir(parents=True)
    split, seed = (int(part.strip("splited")) for part in folder.parent.name.split("_"))
    content = dict(config or config_of(folder.name, split, seed))
    content["name"] = experiment or folder.parent.parent.name
    record: dict[str, Any] = {
        "config": content,
        "protocol": "11 full frames at 64 px, mean of logits",
        "accuracy": {"videos": 8, "top1": top1, "top5": 100.0, "mean_class": top1 / 2},
        "streams": {},
        "faults": [],
        "flow": None,
        "stage_dirs": {},
        "overrides": None,
        "version": "0.1.0",
    }
    (folder / "stage.json").write_text(json.dumps(record | about))
    if scores:
        write_scores(folder / "scores.csv", scores)
    return folder


def write_scores(file: Path, scores: Mapping[str, Row]) -> None:
    """Write a file of video scores for two classes."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video", "label", "first", "second"])
        for name, row in scores.items():
            writer.writerow([name, "first" if name.startswith("a") else "second", *row])
