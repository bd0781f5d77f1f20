"""What views make of videos: samplers, crops and colors, put together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import ColorJitter

from src.data.datamodule import VideoDataModule
from src.data.dataset import (
    Sample,
    TestView,
    TrainView,
    ValView,
    VideoDataset,
    View,
    read_view,
)
from src.data.loading import EpochSampler, collate
from src.data.sampling import ClipSampler, Dense, Segments, StridedSampler
from src.data.transforms import CornerJitterCrop, CropPolicy, RandomResizedCrop
from src.data.videos import Split, Video
from src.media.sources import Size, Uint8
from tests.builders import SMALL_DATA

STACK, SIZE = 4, (96, 128)
JITTER = ColorJitter(0.4, 0.4, 0.4, 0.1)
VIEW = TrainView(4, (2, 4), CornerJitterCrop(40), crop_size=48, short_side=48, hflip=True)


@dataclass
class Scene:
    """A smooth grey picture that gets darker, 40 frames long; its flow, of half the size, is it.

    The grey of frame t is u of field t; v is zero.
    """

    size: Size = SIZE
    fps: float = 25
    num_frames: int = 40
    num_fields: int = 39

    def image(self, index: int, size: Size) -> Uint8:
        noise = np.random.default_rng(0).uniform(-20, 20, (3, 4)).astype(np.float32)
        smooth = cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        image = np.rint(100 - 1.5 * index + smooth).astype(np.uint8)  # below the zero of flow
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        for index in indices:
            yield np.repeat(self.image(index, SIZE)[..., None], 3, axis=-1)

    def flow(self, indices: Sequence[int]) -> Iterator[tuple[Uint8, Uint8]]:
        for index in indices:
            u = self.image(index, (SIZE[0] // 2, SIZE[1] // 2))
            yield u, np.full_like(u, 128)


@dataclass
class Scenes:
    """A library of RGB and flow with one scene under every name."""

    place: str = "memory"

    def find(self, videos: Sequence[Video]) -> list[Video | None]:
        return list(videos)

    def open(self, video: Video) -> Scene:
        return Scene()


def read(view: View, seed: int) -> Sample:
    return read_view(Scene(), Scene(), view, STACK, np.random.default_rng(seed))


@pytest.mark.parametrize("sampler", [StridedSampler(), Segments(), Dense(3)])
def test_training_draws_frames_and_validation_does_not(sampler: ClipSampler) -> None:
    training = replace(VIEW, sampler=sampler)
    validation = ValView(4, (2, 4), 48, 48, sampler)
    drawn = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        frames = training.frames(2, 37, rng).tolist()
        assert frames == sampler(2, 37, 4, (2, 4), np.random.default_rng(seed)).tolist()
        drawn.add(tuple(frames))
        fixed = validation.frames(2, 37, rng).tolist()
        assert fixed == sampler(2, 37, 4, (2, 4), None).tolist()
    assert len(drawn) > 10


@pytest.mark.parametrize("crop", [CornerJitterCrop(40), RandomResizedCrop((0.3, 1))])
def test_both_modalities_show_the_same_pixels(crop: CropPolicy) -> None:
    """u is the grey at the same pixel, or what is left of it to 255 in a mirror."""
    mirrored = set()
    for seed in range(20):
        sample = read(replace(VIEW, crop=crop), seed)
        # The stack's field number L/2 starts from the frame.
        u = sample["flow"][STACK].float()
        mirrored.add(bool(u.mean() > 127.5))
        away = (127.5 - (u - 127.5).abs() - sample["rgb"][0].float()).abs()
        assert away.mean() < 1  # a frame differs from the next by 1.5
        assert away.quantile(0.97) < 2.5  # edges blur
    assert mirrored == {True, False}


def test_same_for_any_number_of_workers() -> None:
    view = replace(VIEW, crop=RandomResizedCrop(), sampler=Segments())
    videos = [Video(f"v{number}", Scenes().place, number) for number in range(6)]  # type: ignore[arg-type]
    scenes: Any = Scenes()
    data = VideoDataset(videos, scenes, scenes, view, STACK, 3, JITTER)

    def epoch(workers: int, number: int) -> Sample:
        sampler = EpochSampler(len(videos), seed=3, shuffle=False)
        sampler.set_epoch(number)
        (batch,) = DataLoader(
            data, batch_size=6, sampler=sampler, num_workers=workers, collate_fn=collate
        )
        return batch

    alone, next_pass = epoch(0, 0), epoch(0, 1)
    parallel = epoch(2, 0)
    for modality in ("rgb", "flow"):
        assert torch.equal(alone[modality], parallel[modality])
        clips = [*alone[modality], *next_pass[modality]]
        assert len({clip.numpy().tobytes() for clip in clips}) == 12  # all the same video


def test_datamodule_hands_choices_to_its_views() -> None:
    def module(**changes: Any) -> VideoDataModule:
        options = {"frames": 4, "short_side": 48, "crop": VIEW.crop, "crop_size": 48}
        return VideoDataModule(
            dataset=lambda: Split((), (), ()),
            **SMALL_DATA | options | {"frame_stride": (2, 4)} | changes,
        )

    plain, chosen = module(), module(sampler=Dense(3), augment=JITTER)
    assert (plain.train_view, plain.augment) == (VIEW, None)
    assert (chosen.train_view, chosen.augment) == (replace(VIEW, sampler=Dense(3)), JITTER)
    assert plain.val_view == ValView(4, (2, 4), 48, 48)
    assert chosen.val_view == ValView(4, (2, 4), 48, 48, Dense(3))
    assert plain.test_view == TestView(5, 48)
