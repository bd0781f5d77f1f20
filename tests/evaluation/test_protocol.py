"""Test protocols against views cut out by hand, and what becomes of their names."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tensorboard.backend.event_processing import (
    event_accumulator,
)
from torch import Tensor
from torch.testing import assert_close

from src.evaluation.protocol import AVERAGES, CROPS, TestProtocol
from src.experiment.build import build_datamodule, build_protocol
from src.experiment.compose import CONF_DIR
from src.experiment.config import stage_config, stage_configs
from src.models.modules import Batch
from src.utils.errors import UserError
from tests.conftest import compose_config

STACK, FRAMES, CLASSES = 3, 2, 4
Floats = npt.NDArray[np.float64]
Uint8 = npt.NDArray[np.uint8]


def batch(height: int, width: int, videos: int = 3) -> Batch:
    random = np.random.default_rng(0)

    def images(channels: int) -> Tensor:
        size = (videos, channels, FRAMES, height, width)
        return torch.from_numpy(random.integers(0, 256, size, dtype=np.uint8))

    return {
        "rgb": images(3),
        "flow": images(2 * STACK),
        "label": torch.arange(videos),
        "video": [f"v{number}" for number in range(videos)],
    }


def numpy_logits(images: Uint8) -> Floats:
    """Logits (B, T, K) of clips (B, C, T, H, W): every pixel has weights of its own."""
    _, channels, _, height, width = images.shape
    weights = np.random.default_rng(channels).normal(size=(CLASSES, channels, height, width))
    scale = 100 * np.sqrt(weights[0].size)
    return np.einsum("bcthw,kchw->btk", images.astype(float), weights) / scale


def logits(batch: Batch) -> dict[str, Tensor]:
    """A network of two streams that sees where a pixel is, and which channel's it is."""
    return {
        "appearance": torch.from_numpy(numpy_logits(batch["rgb"].numpy())),
        "motion": torch.from_numpy(numpy_logits(batch["flow"].numpy())),
    }


def softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def naive_corners(crop: str, height: int, width: int, side: int) -> list[tuple[int, int]]:
    bottom, right = height - side, width - side
    center = (int(bottom / 2), int(right / 2))
    return {
        "center": [center],
        "ten": [(0, 0), (0, right), (bottom, 0), (bottom, right), center],
    }[crop]  # fmt: skip


def naive_scores(videos: Batch, protocol: TestProtocol) -> dict[str, Floats]:
    """Video by video, view by view, frame by frame, on arrays."""
    scores = {}
    for stream, modality in (("appearance", "rgb"), ("motion", "flow")):
        images = videos[modality].numpy()
        height, width = images.shape[-2:]
        side = protocol.crop_size
        if protocol.crop == "full_frame":
            views = [images]
        else:
            views = [
                images[:, :, :, top : top + side, left : left + side]
                for top, left in naive_corners(protocol.crop, height, width, side)
            ]
        if protocol.hflip:
            for view in list(views):
                seen = view[..., ::-1].copy()
                if modality == "flow":
                    for field in range(STACK):
                        seen[:, 2 * field] = 255 - seen[:, 2 * field]  # u, not v
                views.append(seen)
        rows = []
        for video in range(len(images)):
            frames = [
                numpy_logits(view[video : video + 1])[0, t] for view in views for t in range(FRAMES)
            ]
            if protocol.average_over == "probabilities":
                frames = [softmax(frame) for frame in frames]
            rows.append(np.mean(frames, axis=0))
        scores[stream] = np.stack(rows)
    return scores


@pytest.mark.parametrize("average_over", AVERAGES)
@pytest.mark.parametrize("hflip", [True, False])
@pytest.mark.parametrize("crop", CROPS)
def test_scores_are_those_made_by_hand(crop: str, hflip: bool, average_over: str) -> None:
    protocol = TestProtocol(FRAMES, 11, 8, crop, hflip, average_over)
    videos = batch(11, 15)
    before = {name: videos[name].clone() for name in ("rgb", "flow")}
    scores, expected = protocol.video_scores(logits, videos), naive_scores(videos, protocol)
    assert list(scores) == list(expected)
    for stream, values in scores.items():
        assert_close(values.double().numpy(), expected[stream], rtol=1e-5, atol=1e-6)
        if average_over == "probabilities":
            assert_close(values.sum(1), torch.ones(3))
            assert torch.equal(protocol.probabilities(values), values)
        else:
            found = protocol.probabilities(values).double().numpy()
            assert_close(found, softmax(expected[stream]), rtol=1e-5, atol=1e-6)
    for name, images in before.items():
        assert torch.equal(videos[name], images)


def test_protocols_differ() -> None:
    """The network above tells all of them apart, so that the test above can fail."""
    videos = batch(11, 15)
    scores = [
        TestProtocol(FRAMES, 11, 8, crop, hflip, average_over).video_scores(logits, videos)[
            "motion"
        ]
        for crop in CROPS
        for hflip in (True, False)
        for average_over in AVERAGES
    ]
    for place, one in enumerate(scores):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in scores[:place])


@pytest.mark.parametrize("average_over", AVERAGES)
def test_on_frames_of_the_crops_size_all_are_one(average_over: str) -> None:
    videos = batch(8, 8)
    whole, ten, center = (
        TestProtocol(FRAMES, 8, 8, crop, average_over=average_over).video_scores(logits, videos)
        for crop in ("full_frame", "ten", "center")
    )
    for stream, expected in whole.items():
        assert_close(ten[stream], expected)
        assert_close(center[stream], expected)


@pytest.mark.parametrize("crop", CROPS)
def test_videos_do_not_depend_on_their_batch(crop: str) -> None:
    videos, order = batch(9, 12, 5), [3, 0, 4, 1, 2]
    shuffled = {name: videos[name][order] for name in ("rgb", "flow")}
    protocol = TestProtocol(FRAMES, 9, 8, crop)
    scores, others = (protocol.video_scores(logits, one) for one in (videos, shuffled))
    for stream, values in scores.items():
        assert_close(others[stream], values[order])


@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_one_modality_alone(modality: str) -> None:
    """A stream's own test: the batch lacks the other modality, or carries it unused."""
    videos, protocol = batch(9, 12), TestProtocol(FRAMES, 9, 8, "ten")

    def stream(seen: Batch) -> dict[str, Tensor]:
        return {"only": torch.from_numpy(numpy_logits(seen[modality].numpy()))}

    alone = protocol.video_scores(stream, {modality: videos[modality]})
    both = protocol.video_scores(logits, videos)
    assert_close(alone["only"], both["appearance" if modality == "rgb" else "motion"])


def test_views_come_one_after_the_other_and_keep_the_rest() -> None:
    videos = batch(9, 12)
    views = TestProtocol(FRAMES, 9, 8, "ten").views(videos)
    first = next(views)
    assert first["video"] == videos["video"]
    storage = videos["rgb"].untyped_storage().data_ptr()
    assert first["rgb"].untyped_storage().data_ptr() == storage  # nothing is copied
    assert len(list(views)) == 9


def test_half_precision_is_averaged_in_full() -> None:
    videos, protocol = batch(9, 12), TestProtocol(FRAMES, 9, 8, "ten", average_over="probabilities")

    def half(seen: Batch) -> dict[str, Tensor]:
        return {name: values.half() for name, values in logits(seen).items()}

    scores = protocol.video_scores(half, videos)["motion"]
    assert scores.dtype == torch.float32
    assert_close(scores, protocol.video_scores(logits, videos)["motion"], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (TestProtocol(25, 256, 224), "25 full frames + flip at 256 px, mean of logits"),
        (TestProtocol(11, 64, 56, hflip=False), "11 full frames at 64 px, mean of logits"),
        (
            TestProtocol(25, 256, 224, "ten"),
            "25 frames x 10 crops of 224 px at 256 px, mean of logits",
        ),
        (
            TestProtocol(25, 256, 224, "ten", hflip=False, average_over="probabilities"),
            "25 frames x 5 crops of 224 px at 256 px, mean of probabilities",
        ),
        (
            TestProtocol(10, 256, 224, "center"),
            "10 center crops of 224 px + flip at 256 px, mean of logits",
        ),
    ],
)
def test_names(protocol: TestProtocol, name: str) -> None:
    assert protocol.name == name


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"protocol\.crop=nine: choose from full_frame, ten"):
        TestProtocol(25, 256, 224, "nine")
    with pytest.raises(
        ValueError, match=r"protocol\.average_over=max: choose from logits, probabilities"
    ):
        TestProtocol(25, 256, 224, average_over="max")
    with pytest.raises(ValueError, match=r"cuts 224 pixels out of frames of 128.*full_frames"):
        TestProtocol(25, 128, 224, "ten")
    TestProtocol(25, 128, 224)  # full frames may be small
    with pytest.raises(UserError, match=r"frames of 7 x 12 pixels are smaller than the crop of 8"):
        TestProtocol(FRAMES, 9, 8, "center").video_scores(logits, batch(7, 12))


@pytest.mark.slow
def test_every_choice_is_a_choice_of_training() -> None:
    names = {}
    for file in sorted((CONF_DIR / "protocol").glob("*.yaml")):
        overrides = ("experiment=st_resnet_hmdb51", f"protocol={file.stem}")
        configs = stage_configs(compose_config("train", *overrides))
        (names[file.stem],) = {build_protocol(config).name for config in configs.values()}
    assert names == {
        "full_frames": "25 full frames + flip at 256 px, mean of logits",
        "ten_crops": "25 frames x 10 crops of 224 px at 256 px, mean of logits",
        "center_crop": "25 center crops of 224 px at 256 px, mean of logits",
    }


def test_the_default_is_the_released_one() -> None:
    assert stage_config(compose_config("train"), "joint")["protocol"] == {
        "_target_": "src.evaluation.protocol.TestProtocol",
        "crop": "full_frame",
        "hflip": True,
        "average_over": "logits",
    }


@pytest.mark.parametrize("choice", ["full_frames", "ten_crops", "center_crop"])
def test_data_that_forbid_it_are_never_mirrored(choice: str) -> None:
    overrides = ("experiment=motion_two_movers", f"protocol={choice}", "protocol.hflip=true")
    config = stage_config(compose_config("train", *overrides), "motion")
    protocol = build_protocol(config)
    assert isinstance(protocol, TestProtocol)
    assert not protocol.hflip
    assert len(list(protocol.views(batch(64, 64)))) == (5 if choice == "ten_crops" else 1)
    assert build_datamodule(config).test_view.count == protocol.frames == 11


def logged_protocols(stage: Path) -> list[str]:
    """What each of the local loggers says of a stage's test."""
    (file,) = stage.glob("csv/*/hparams.yaml")
    events = event_accumulator.EventAccumulator(str(stage / "tensorboard")).Reload()
    (text,) = events.Tensors("test/protocol/text_summary")
    return [
        file.read_text().strip().removeprefix("test/protocol: "),
        text.tensor_proto.string_val[0].decode(),
    ]


def test_logged_numbers_carry_their_protocol(finished_run: Path) -> None:
    name = "11 full frames at 64 px, mean of logits"
    for stage in ("appearance", "joint_pooled"):
        assert logged_protocols(finished_run / stage) == [name, name]
        beside = (finished_run / stage / "scores.protocol.txt").read_text()
        assert beside == f"{name}\n8 videos\n"
