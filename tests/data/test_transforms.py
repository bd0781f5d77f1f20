"""Crops, mirroring and layout of clips; images are ramps of their own coordinates."""

from collections import Counter

import numpy as np
import pytest
import torch

from src.data.sources import Uint8
from src.data.transforms import (
    WHOLE_FRAME,
    Box,
    CentreCrop,
    CornerJitterCrop,
    CropPolicy,
    MultiScaleCrop,
    Size,
    crop_and_resize,
    flow_to_tensor,
    mirror_flow,
    mirror_rgb,
    resize,
    rgb_to_tensor,
    size_at,
)

FRAMES: list[Size] = [(256, 340), (340, 256), (256, 256), (160, 120)]
POLICIES = [CornerJitterCrop(224), MultiScaleCrop((256, 224, 192, 168)), CentreCrop(224)]
DRAWS = 1000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def ramp(size: Size) -> Uint8:
    """An image (1, H, W, 2) of the scene whose point (y, x), in fractions, is 255 (y, x)."""
    y = (np.arange(size[0]) + 0.5) / size[0]
    x = (np.arange(size[1]) + 0.5) / size[1]
    scene = 255 * np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    return np.rint(scene).astype(np.uint8)[None]


def pixels(box: Box, frame: Size) -> tuple[np.ndarray, np.ndarray]:
    """A box's (top, left) and (height, width) in pixels of the frame."""
    scale = np.asarray(frame)
    return np.array([box.top, box.left]) * scale, np.array([box.height, box.width]) * scale


def difference(one: Uint8, other: Uint8) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


class TestCropPolicies:
    @pytest.mark.parametrize("frame", FRAMES)
    @pytest.mark.parametrize("policy", POLICIES)
    def test_crops_lie_inside_the_frame(
        self, policy: CropPolicy, frame: Size, rng: np.random.Generator
    ) -> None:
        for _ in range(100):
            offset, sides = pixels(policy(frame, rng), frame)
            assert (sides > 0).all()
            assert (offset >= 0).all()
            assert (offset + sides <= np.asarray(frame) + 1e-9).all()

    def test_jittered_sides(self, rng: np.random.Generator) -> None:
        crops = [pixels(CornerJitterCrop(224)((300, 240), rng), (300, 240)) for _ in range(DRAWS)]
        height, width = np.array([sides for _, sides in crops]).T
        assert 168 <= height.min() < 170
        assert 278 < height.max() <= 280
        assert 168 <= width.min() < 170
        assert width.max() == pytest.approx(240)  # limited to the frame
        assert abs(np.corrcoef(height, width)[0, 1]) < 0.1  # drawn apart: the aspect jitters

    def test_jittered_crop_keeps_to_the_corners(self, rng: np.random.Generator) -> None:
        frame = (300, 400)
        corners: Counter[tuple[bool, ...]] = Counter()
        places = []
        for _ in range(DRAWS):
            offset, sides = pixels(CornerJitterCrop(224)(frame, rng), frame)
            place = offset / (np.asarray(frame) - sides)
            assert ((place <= 0.25 + 1e-9) | (place >= 0.75 - 1e-9)).all()
            corners[tuple((place > 0.5).tolist())] += 1
            places.append(np.minimum(place, 1 - place))
        assert len(corners) == 4
        assert min(corners.values()) > 0.8 * DRAWS / 4
        assert np.max(places) > 0.24  # the whole outer quarter, not the corner alone

    def test_multi_scale_crop(self, rng: np.random.Generator) -> None:
        frame, sides_seen, places = (256, 340), set(), set()
        for _ in range(DRAWS):
            offset, sides = pixels(MultiScaleCrop((224, 192, 168))(frame, rng), frame)
            sides_seen.add(tuple(np.rint(sides).tolist()))
            place = offset / (np.asarray(frame) - sides)
            places.add(tuple(np.round(place, 6).tolist()))
        assert sides_seen == {(h, w) for h in (224, 192, 168) for w in (224, 192, 168)}
        assert places == {(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)}

    def test_centre_crop(self, rng: np.random.Generator) -> None:
        offset, sides = pixels(CentreCrop(224)((256, 340), rng), (256, 340))
        assert offset.tolist() == pytest.approx([16, 58])
        assert sides.tolist() == pytest.approx([224, 224])
        assert CentreCrop(224)((112, 100), rng) == WHOLE_FRAME


class TestCropAndResize:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_one_box_is_one_region_at_any_stored_size(
        self, policy: CropPolicy, rng: np.random.Generator
    ) -> None:
        for _ in range(20):
            box = policy((256, 340), rng)
            rgb = crop_and_resize(ramp((240, 320)), box, (56, 64))
            flow = crop_and_resize(ramp((120, 160)), box, (56, 64))
            # Half a pixel of the smaller image is a level of the ramp, rounding another.
            assert difference(rgb, flow) <= 3
            y = box.top + box.height * (np.arange(56) + 0.5) / 56
            x = box.left + box.width * (np.arange(64) + 0.5) / 64
            assert np.abs(rgb[0, :, 0, 0] - 255 * y).max() <= 3
            assert np.abs(rgb[0, 0, :, 1] - 255 * x).max() <= 3

    def test_every_image_is_cut_alike(self, rng: np.random.Generator) -> None:
        images = rng.integers(0, 256, (3, 20, 30, 2), dtype=np.uint8)
        box = Box(0.25, 0.5, 0.5, 0.5)
        assert (crop_and_resize(images, box, (10, 15)) == images[:, 5:15, 15:]).all()
        for channels in (2, 3):
            cut = crop_and_resize(np.zeros((4, 20, 30, channels), np.uint8), box, (7, 9))
            assert cut.shape == (4, 7, 9, channels)
            assert cut.dtype == np.uint8

    def test_whole_frame_at_its_own_size_is_the_frame(self, rng: np.random.Generator) -> None:
        images = rng.integers(0, 256, (2, 31, 43, 3), dtype=np.uint8)
        assert (crop_and_resize(images, WHOLE_FRAME, (31, 43)) == images).all()

    def test_box_thinner_than_a_pixel_still_shows_one(self) -> None:
        cut = crop_and_resize(ramp((16, 16)), Box(0.5, 0.5, 0.001, 0.001), (4, 4))
        assert (cut == ramp((16, 16))[0, 8, 8]).all()

    def test_shrinking_averages_areas(self) -> None:
        image = np.zeros((8, 8, 3), np.uint8)
        image[0, 0] = 160  # a single bright pixel: interpolating between the middle four misses it
        assert resize(image, (2, 2))[..., 0].tolist() == [[10, 0], [0, 0]]


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((240, 320), 256, (256, 341)), ((320, 240), 256, (341, 256)), ((256, 256), 112, (112, 112))],
)
def test_size_at(size: Size, short_side: int, expected: Size) -> None:
    assert size_at(size, short_side) == expected


class TestLayout:
    def test_rgb(self, rng: np.random.Generator) -> None:
        frames = rng.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
        clip = rgb_to_tensor(frames)
        assert (clip.shape, clip.dtype) == ((3, 4, 5, 6), torch.uint8)
        for channel, t in np.ndindex(3, 4):
            assert (clip[channel, t].numpy() == frames[t, :, :, channel]).all()

    def test_flow_channels_are_u1_v1_u2_v2(self, rng: np.random.Generator) -> None:
        stack, frames = 4, 3
        fields = rng.integers(0, 256, (frames * stack, 5, 6, 2), dtype=np.uint8)
        clip = flow_to_tensor(fields, stack)
        assert (clip.shape, clip.dtype) == ((2 * stack, frames, 5, 6), torch.uint8)
        for t, position, component in np.ndindex(frames, stack, 2):
            field = fields[t * stack + position, :, :, component]
            assert (clip[2 * position + component, t].numpy() == field).all()


class TestMirror:
    def test_rgb_positions(self) -> None:
        assert mirror_rgb(torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist() == [[3, 2, 1], [6, 5, 4]]

    def test_flow_negates_u_and_keeps_v(self) -> None:
        clip = torch.tensor([0, 10, 128, 200], dtype=torch.uint8)  # u1, v1, u2, v2
        mirrored = mirror_flow(clip.view(4, 1, 1, 1).expand(4, 2, 3, 3))
        assert mirrored[:, 1, 2, 0].tolist() == [255, 10, 127, 200]
        assert clip.tolist() == [0, 10, 128, 200]  # the given clip is left alone

    def test_flow_moves_positions_too(self) -> None:
        clip = torch.tensor([[0, 1], [5, 6]], dtype=torch.uint8).view(2, 1, 1, 2)
        assert mirror_flow(clip).flatten().tolist() == [254, 255, 6, 5]

    def test_twice_is_nothing(self) -> None:
        generator = torch.Generator().manual_seed(0)
        clip = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8, generator=generator)
        for mirror in (mirror_rgb, mirror_flow):
            assert not torch.equal(mirror(clip), clip)
            assert torch.equal(mirror(mirror(clip)), clip)

    @pytest.mark.parametrize("size", [(12, 20), (9, 13), (40, 60)])
    def test_commutes_with_the_crop_of_the_mirrored_box(
        self, size: Size, rng: np.random.Generator
    ) -> None:
        images = rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
        box = Box(top=4 / 32, left=6 / 64, height=12 / 32, width=20 / 64)
        mirrored_box = Box(box.top, 1 - box.left - box.width, box.height, box.width)
        cut_first = mirror_rgb(rgb_to_tensor(crop_and_resize(images, box, size)))
        mirrored = np.ascontiguousarray(images[:, :, ::-1])
        mirrored_first = rgb_to_tensor(crop_and_resize(mirrored, mirrored_box, size))
        assert difference(cut_first.numpy(), mirrored_first.numpy()) <= 1
