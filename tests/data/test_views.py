"""What views make of videos: samplers, crops, augmentation and rescaled flow, put together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from src.data.augment import Augmentation, AugmentedCut, ColourJitter, RandAugment, rotation
from src.data.datamodule import VideoDataModule
from src.data.dataset import Sample, VideoDataset, read_view
from src.data.loading import DrawSampler, collate
from src.data.sampling import ClipSampler, Dense, Segments, StridedRun
from src.data.sources import Size, Uint8
from src.data.splits import Split, Video
from src.data.transforms import CentreCrop, CornerJitterCrop, CropPolicy, Cut, RandomResizedCrop
from src.data.views import CentralClip, RandomClip, View, WholeVideo

STACK, SIZE = 4, (96, 128)
VIEW = RandomClip(4, (2, 4), CornerJitterCrop(40), crop_size=48, short_side=48, mirror=True)


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
    settings: None = None

    def find(self, videos: Sequence[Video]) -> list[Video | None]:
        return list(videos)

    def open(self, video: Video) -> Scene:
        return Scene()


@dataclass(frozen=True)
class Turn:
    """An augmentation by any angle."""

    def __call__(self, cut: Cut, rng: np.random.Generator) -> Cut:
        return AugmentedCut(cut, warp=rotation(rng.uniform(-60, 60)))


def read(view: View, seed: int) -> Sample:
    return read_view(Scene(), Scene(), view, STACK, np.random.default_rng(seed))


@pytest.mark.parametrize("sampler", [StridedRun(), Segments(), Dense(3)])
def test_training_draws_frames_and_validation_does_not(sampler: ClipSampler) -> None:
    training = replace(VIEW, sampler=sampler)
    validation = CentralClip(4, (2, 4), 48, 48, sampler)
    drawn = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        frames = training.frames(2, 37, rng).tolist()
        assert frames == sampler(2, 37, 4, (2, 4), np.random.default_rng(seed)).tolist()
        drawn.add(tuple(frames))
        fixed = validation.frames(2, 37, rng).tolist()
        assert fixed == sampler(2, 37, 4, (2, 4), None).tolist()
    assert len(drawn) > 10


def test_augmentation_leaves_crop_and_mirroring_as_they_are() -> None:
    for seed in range(20):
        plain, augmented = (
            view.geometry(SIZE, np.random.default_rng(seed))
            for view in (VIEW, replace(VIEW, augment=RandAugment()))
        )
        assert isinstance(augmented, AugmentedCut)
        assert augmented.cut == plain


@pytest.mark.parametrize("crop", [CornerJitterCrop(40), RandomResizedCrop((0.3, 1))])
@pytest.mark.parametrize("augment", [None, ColourJitter(0, 0, 0, 0), Turn()])
def test_both_modalities_show_the_same_pixels(
    augment: Augmentation | None, crop: CropPolicy
) -> None:
    """However flow is turned, its length is that of the grey at the same pixel."""
    turned = []
    for seed in range(20):
        sample = read(replace(VIEW, crop=crop, augment=augment), seed)
        grey = sample["rgb"][0].float()
        # The stack's field number L/2 starts from the frame.
        u, v = (sample["flow"][STACK + component].float() - 127.5 for component in (0, 1))
        seen = (sample["rgb"] == sample["rgb"][:1]).all(0)  # beyond the border it is not grey
        away = (torch.hypot(u, v) - (127.5 - grey)).abs()[seen]
        assert seen.float().mean() > 0.5
        assert away.mean() < 1  # a frame differs from the next by 1.5
        assert away.quantile(0.97) < 2.5  # edges blur
        turned.append(float(v[seen].abs().max()))
    assert (max(turned) > 20) == isinstance(augment, Turn)


@pytest.mark.parametrize(
    "view",
    [
        replace(VIEW, crop=CentreCrop(96), crop_size=96, short_side=96, mirror=False),
        CentralClip(4, (2, 4), crop_size=96, short_side=96),
        WholeVideo(4, short_side=96),
    ],
)
def test_every_view_rescales_flow(view: RandomClip | CentralClip | WholeVideo) -> None:
    """Flow is stored at half the size of what comes out."""
    stored, rescaled = read(view, 0)["flow"], read(replace(view, rescale_flow=True), 0)["flow"]
    assert (stored[0::2] < 127).all()
    expected = (127.5 + 2 * (stored[0::2].float() - 127.5)).clip(0, 255)
    assert (rescaled[0::2] - expected).abs().max() <= 0.5


def test_same_for_any_number_of_workers() -> None:
    view = replace(VIEW, crop=RandomResizedCrop(), sampler=Segments(), augment=RandAugment())
    videos = [Video(f"v{number}", Scenes().place, number) for number in range(6)]  # type: ignore[arg-type]
    data = VideoDataset(videos, Scenes(), Scenes(), view, STACK, seed=3)

    def epoch(workers: int, number: int) -> Sample:
        sampler = DrawSampler(len(videos), seed=3, shuffle=False)
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
    choices: dict[str, Any] = {
        "sampler": Dense(3),
        "augment": RandAugment(),
        "rescale_flow": True,
    }

    def module(**changes: Any) -> VideoDataModule:
        return VideoDataModule(
            dataset=lambda: Split((), (), ()),
            rgb="videos",
            flow="flow",
            split=1,
            num_classes=2,
            modalities=["rgb", "flow"],
            frames=4,
            stack=STACK,
            short_side=48,
            crop=VIEW.crop,
            crop_size=48,
            mirror=True,
            test_frames=5,
            batch_size=2,
            test_batch_size=1,
            num_workers=0,
            seed=7,
            stride=(2, 4),
            **changes,
        )

    plain, chosen = module(), module(**choices)
    assert plain.train_view == VIEW
    assert chosen.train_view == replace(VIEW, **choices)
    assert plain.val_view == CentralClip(4, (2, 4), 48, 48)
    assert chosen.val_view == CentralClip(4, (2, 4), 48, 48, Dense(3), rescale_flow=True)
    assert chosen.test_view == WholeVideo(5, 48, rescale_flow=True)
    assert plain.test_view == WholeVideo(5, 48)
