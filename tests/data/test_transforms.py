"""Crops, mirroring and layout of clips; images are ramps of their own coordinates."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from src.data.sampling import stack_indices
from src.data.transforms import (
    WHOLE_FRAME,
    Box,
    CenterCrop,
    CornerJitterCrop,
    CropPolicy,
    CropResizeFlip,
    MultiScaleCrop,
    RandomResizedCrop,
    flow_clip,
    hflip,
    rgb_clip,
)
from src.media.sources import Size, Uint8, resize, size_at
from src.utils.errors import UserError

FRAMES: list[Size] = [(256, 340), (340, 256), (256, 256), (160, 120)]
POLICIES = [
    CornerJitterCrop(224),
    MultiScaleCrop((256, 224, 192, 168)),
    RandomResizedCrop(),
    CenterCrop(224),
]
DRAWS = 1000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def ramp(size: Size) -> Uint8:
    """An image (H, W, 2) of the scene whose point (y, x), in fractions, is 255 (y, x)."""
    y = (np.arange(size[0]) + 0.5) / size[0]
    x = (np.arange(size[1]) + 0.5) / size[1]
    scene = 255 * np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    return np.rint(scene).astype(np.uint8)


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

    def test_random_resized_crop(self, rng: np.random.Generator) -> None:
        frame, policy = (256, 340), RandomResizedCrop((0.1, 0.5), (0.8, 1.5))
        crops = np.array([pixels(policy(frame, rng), frame) for _ in range(DRAWS)])
        offsets, sides = crops[:, 0], crops[:, 1]
        area = sides.prod(axis=1) / (256 * 340)
        assert 0.1 <= area.min() < 0.11
        assert 0.49 < area.max() <= 0.5
        aspect = np.log(sides[:, 1] / sides[:, 0])
        assert np.log(0.8) <= aspect.min() < np.log(0.81)
        assert np.log(1.48) < aspect.max() <= np.log(1.5)
        assert aspect.mean() == pytest.approx(np.log(0.8 * 1.5) / 2, abs=0.02)
        place = offsets / (np.asarray(frame) - sides)
        assert place.min() < 0.01
        assert place.max() > 0.99
        assert place.mean(axis=0).tolist() == pytest.approx([0.5, 0.5], abs=0.05)

    def test_random_resized_crop_keeps_to_its_area_where_it_fits(
        self, rng: np.random.Generator
    ) -> None:
        """A square crop of this frame is at most a quarter of it: one draw of six, so ten do."""
        policy, frame = RandomResizedCrop((0.1, 1), (1, 1)), (100, 400)
        sides = np.array([pixels(policy(frame, rng), frame)[1] for _ in range(DRAWS)])
        assert np.isclose(sides[:, 0], sides[:, 1]).mean() == pytest.approx(0.84, abs=0.04)

    def test_random_resized_crop_that_never_fits(self, rng: np.random.Generator) -> None:
        box = RandomResizedCrop((1, 1), (1, 1))((100, 400), rng)
        assert pixels(box, (100, 400))[1].tolist() == pytest.approx([100, 200])

    @pytest.mark.parametrize("area", [(0, 1), (0.5, 0.2), (0.5, 1.2)])
    def test_random_resized_crop_of_no_area(self, area: tuple[float, float]) -> None:
        with pytest.raises(UserError, match=r"data\.crop\.area=.*<= 1"):
            RandomResizedCrop(area)
        with pytest.raises(UserError, match=r"data\.crop\.aspect"):
            RandomResizedCrop(aspect=(0, 1))

    def test_center_crop(self, rng: np.random.Generator) -> None:
        offset, sides = pixels(CenterCrop(224)((256, 340), rng), (256, 340))
        assert offset.tolist() == pytest.approx([16, 58])
        assert sides.tolist() == pytest.approx([224, 224])
        assert CenterCrop(224)((112, 100), rng) == WHOLE_FRAME


class TestCut:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_one_box_is_one_region_at_any_stored_size(
        self, policy: CropPolicy, rng: np.random.Generator
    ) -> None:
        for _ in range(20):
            box = policy((256, 340), rng)
            geometry = CropResizeFlip(box, (56, 64))
            rgb, flow = geometry.cut(ramp((240, 320))), geometry.cut(ramp((120, 160)))
            # Half a pixel of the smaller image is a level of the ramp, rounding another.
            assert difference(rgb, flow) <= 3
            y = box.top + box.height * (np.arange(56) + 0.5) / 56
            x = box.left + box.width * (np.arange(64) + 0.5) / 64
            assert np.abs(rgb[:, 0, 0] - 255 * y).max() <= 3
            assert np.abs(rgb[0, :, 1] - 255 * x).max() <= 3

    def test_box_of_the_size_asked_for_is_copied(self, rng: np.random.Generator) -> None:
        image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        cut = CropResizeFlip(Box(0.25, 0.5, 0.5, 0.5), (10, 15)).cut(image)
        assert (cut == image[5:15, 15:]).all()

    @pytest.mark.parametrize("shape", [(20, 30), (20, 30, 2), (20, 30, 3)])
    def test_channels_stay(self, shape: tuple[int, ...]) -> None:
        cut = CropResizeFlip(Box(0.25, 0.5, 0.5, 0.5), (7, 9)).cut(np.zeros(shape, np.uint8))
        assert cut.shape == (7, 9, *shape[2:])
        assert cut.dtype == np.uint8

    def test_whole_frame_at_its_own_size_is_the_frame(self, rng: np.random.Generator) -> None:
        image = rng.integers(0, 256, (31, 43, 3), dtype=np.uint8)
        assert (CropResizeFlip(WHOLE_FRAME, (31, 43)).cut(image) == image).all()

    def test_box_thinner_than_a_pixel_still_shows_one(self) -> None:
        cut = CropResizeFlip(Box(0.5, 0.5, 0.001, 0.001), (4, 4)).cut(ramp((16, 16)))
        assert (cut == ramp((16, 16))[8, 8]).all()

    def test_mirror(self, rng: np.random.Generator) -> None:
        image = rng.integers(0, 256, (31, 43, 3), dtype=np.uint8)
        u, v = image[..., 0], image[..., 1]
        box, size = Box(0.1, 0.2, 0.5, 0.7), (24, 20)
        straight, mirrored = CropResizeFlip(box, size), CropResizeFlip(box, size, hflip=True)
        assert (mirrored.cut(image) == straight.cut(image)[:, ::-1]).all()
        (straight_u, straight_v), (mirrored_u, mirrored_v) = (
            straight.flow(u, v),
            mirrored.flow(u, v),
        )
        assert (mirrored_u == 255 - straight_u[:, ::-1]).all()
        assert (mirrored_v == straight_v[:, ::-1]).all()

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
        clip = rgb_clip(iter(frames), 4, CropResizeFlip(WHOLE_FRAME, (5, 6)))
        assert (clip.shape, clip.dtype) == ((3, 4, 5, 6), torch.uint8)
        for channel, t in np.ndindex(3, 4):
            assert (clip[channel, t].numpy() == frames[t, :, :, channel]).all()

    @pytest.mark.parametrize("frames", [[2, 5, 8], [2, 3, 5], [4, 4, 4], [0, 5, 9]])
    def test_flow_channels_are_u1_v1_u2_v2(
        self, frames: list[int], rng: np.random.Generator
    ) -> None:
        """Each field is read once, for stacks far apart, overlapping, repeated, or at a border."""
        stack, fields = 4, rng.integers(0, 256, (10, 2, 5, 6), dtype=np.uint8)
        places = stack_indices(np.array(frames), stack, len(fields))
        read = ((fields[i, 0], fields[i, 1]) for i in places)
        shape = (len(frames), stack)
        clip = flow_clip(read, list(places.values()), shape, CropResizeFlip(WHOLE_FRAME, (5, 6)))
        assert (clip.shape, clip.dtype) == ((2 * stack, len(frames), 5, 6), torch.uint8)
        for (t, frame), position, component in product(enumerate(frames), range(stack), range(2)):
            field = fields[np.clip(frame - stack // 2 + position, 0, 9), component]
            assert (clip[2 * position + component, t].numpy() == field).all()

    def test_every_image_is_cut_alike(self, rng: np.random.Generator) -> None:
        image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        geometry = CropResizeFlip(Box(0.1, 0.2, 0.6, 0.5), (8, 12), hflip=True)
        rgb = rgb_clip([image] * 3, 3, geometry)
        field, places = (image[..., 0], image[..., 1]), [[(0, 0)], [(0, 1), (1, 0)], [(1, 1)]]
        flow = flow_clip([field] * 3, places, (2, 2), geometry)
        assert (rgb == rgb[:, :1]).all()
        assert torch.equal(flow[0::2], (255 - rgb[:1, :2]).expand(2, -1, -1, -1))
        assert torch.equal(flow[1::2], rgb[1:2, :2].expand(2, -1, -1, -1))


class TestMirror:
    def test_rgb_positions(self) -> None:
        assert hflip("rgb", torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist() == [[3, 2, 1], [6, 5, 4]]

    def test_flow_negates_u_and_keeps_v(self) -> None:
        clip = torch.tensor([0, 10, 128, 200], dtype=torch.uint8)  # u1, v1, u2, v2
        mirrored = hflip("flow", clip.view(4, 1, 1, 1).expand(4, 2, 3, 3))
        assert mirrored[:, 1, 2, 0].tolist() == [255, 10, 127, 200]
        assert clip.tolist() == [0, 10, 128, 200]  # the given clip is left alone

    def test_flow_moves_positions_too(self) -> None:
        clip = torch.tensor([[0, 1], [5, 6]], dtype=torch.uint8).view(2, 1, 1, 2)
        assert hflip("flow", clip).flatten().tolist() == [254, 255, 6, 5]

    def test_twice_is_nothing(self) -> None:
        generator = torch.Generator().manual_seed(0)
        clip = torch.randint(0, 256, (2, 4, 3, 5, 6), dtype=torch.uint8, generator=generator)
        for modality in ("rgb", "flow"):
            assert not torch.equal(hflip(modality, clip), clip)
            assert torch.equal(hflip(modality, hflip(modality, clip)), clip)

    @pytest.mark.parametrize("size", [(12, 20), (9, 13), (40, 60)])
    def test_commutes_with_the_crop_of_the_mirrored_box(
        self, size: Size, rng: np.random.Generator
    ) -> None:
        images = rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
        box = Box(top=4 / 32, left=6 / 64, height=12 / 32, width=20 / 64)
        mirrored_box = Box(box.top, 1 - box.left - box.width, box.height, box.width)
        cut_first = hflip("rgb", rgb_clip(images, 2, CropResizeFlip(box, size)))
        mirrored_first = rgb_clip(images[:, :, ::-1], 2, CropResizeFlip(mirrored_box, size))
        assert difference(cut_first.numpy(), mirrored_first.numpy()) <= 1

    def test_of_images_is_that_of_clips(self, rng: np.random.Generator) -> None:
        """Training mirrors images as they are cut, testing mirrors whole clips."""
        images = rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
        fields, places = [(i[..., 0], i[..., 1]) for i in images], [[(0, 0)], [(0, 1)]]
        box, size = Box(0.1, 0.2, 0.5, 0.7), (24, 40)
        straight, mirrored = (CropResizeFlip(box, size, mirror) for mirror in (False, True))
        rgb = [rgb_clip(images, 2, cut) for cut in (straight, mirrored)]
        flow = [flow_clip(fields, places, (1, 2), cut) for cut in (straight, mirrored)]
        assert torch.equal(hflip("rgb", rgb[0]), rgb[1])
        assert torch.equal(hflip("flow", flow[0]), flow[1])
