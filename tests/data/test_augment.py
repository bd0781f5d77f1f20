"""Augmentations change all images of a clip alike; images are ramps of their own coordinates."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from src.data.augment import (
    LUMA,
    MEAN_COLOUR,
    RECOLOURS,
    WARPS,
    ZERO_FLOW,
    Augmentation,
    AugmentedCut,
    ColourJitter,
    Matrix,
    RandAugment,
    brightness,
    contrast,
    hue,
    rotation,
    saturation,
    shear,
    translation,
)
from src.data.sources import Uint8
from src.data.transforms import (
    WHOLE_FRAME,
    Box,
    Cut,
    Geometry,
    flow_clip,
    mirror_flow,
    mirror_rgb,
    rgb_clip,
)
from src.errors import UserError
from tests.data.test_transforms import difference, ramp

SIZE = (40, 40)
WHOLE = Geometry(WHOLE_FRAME, SIZE)
SOME_WARPS = [
    translation(7, -3),
    shear(0.3, 0),
    shear(0, -0.2),
    rotation(25),
    rotation(-10) @ shear(0.2, 0) @ translation(2, 5),
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def picture(rng: np.random.Generator, low: int = 40, high: int = 215) -> Uint8:
    """A smooth image (H, W, 3) of many colours."""
    noise = cv2.GaussianBlur(rng.uniform(0, 1, (*SIZE, 3)).astype(np.float32), (0, 0), 3)
    return cv2.normalize(noise, None, low, high, cv2.NORM_MINMAX).astype(np.uint8)


def constant(u: float, v: float) -> tuple[Uint8, Uint8]:
    """A field of constant flow, in levels from the quantised zero, 127.5."""
    return np.full(SIZE, 127.5 + u, np.uint8), np.full(SIZE, 127.5 + v, np.uint8)


def clips(cut: Cut, image: Uint8, count: int = 3) -> tuple[Tensor, Tensor]:
    """RGB (3, T, H, W) of one image and flow (2T, 1, H, W) whose u, v are its red and green."""
    fields = [(image[..., 0], image[..., 1])] * count
    places = [[(0, position)] for position in range(count)]
    return rgb_clip([image] * count, count, cut), flow_clip(fields, places, (1, count), cut)


def came_from(warp: Matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each pixel was before a warp, (y, x) in pixels, and how far that is inside SIZE."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    middle = (np.array(SIZE) - 1) / 2
    there = np.stack([x - middle[1], y - middle[0], np.ones(SIZE)])
    back = np.einsum("ij,jyx->iyx", np.linalg.inv(warp), there)
    x, y = back[0] + middle[1], back[1] + middle[0]
    return y, x, np.minimum.reduce([y, x, SIZE[0] - 1 - y, SIZE[1] - 1 - x])


class TestWarp:
    @pytest.mark.parametrize("warp", SOME_WARPS)
    def test_points_go_where_it_says(self, warp: Matrix) -> None:
        coordinates = ramp(SIZE)
        image = np.dstack([coordinates, coordinates[..., :1]])
        warped = AugmentedCut(WHOLE, warp=warp).rgb(image)
        y, x, inside = came_from(warp)
        expected = 255 * (np.stack([y, x], axis=-1) + 0.5) / SIZE[0]
        assert np.abs(warped[..., :2] - expected)[inside > 0].max() <= 2
        assert (inside > 0).mean() > 0.5
        assert (warped[inside < -1] == MEAN_COLOUR).all()
        assert (inside < -1).any()

    @pytest.mark.parametrize("mirror", [False, True])
    @pytest.mark.parametrize("warp", SOME_WARPS)
    def test_flow_goes_along_and_its_vectors_turn(
        self, warp: Matrix, mirror: bool, rng: np.random.Generator
    ) -> None:
        """At each pixel flow is the warp's linear part times what RGB shows there."""
        image = picture(rng, 80, 175)
        cut = AugmentedCut(Geometry(Box(0.1, 0.2, 0.8, 0.7), SIZE, mirror), warp=warp)
        rgb, flow = cut.rgb(image), cut.flow(image[..., 0], image[..., 1])
        before = rgb[..., :2] - 127.5
        before[..., 0] *= -1 if mirror else 1
        expected = 127.5 + before @ warp[:2, :2].T
        inside = came_from(warp)[2]
        assert np.abs(np.moveaxis(flow, 0, -1) - expected)[inside > 0].max() <= 2
        assert all((component[inside < -1] == ZERO_FLOW).all() for component in flow)

    def test_quarter_turn_of_a_known_flow(self, rng: np.random.Generator) -> None:
        """Clockwise: what moved to the right moves down, what was left is on top."""
        cut, image = AugmentedCut(WHOLE, warp=rotation(90)), picture(rng)
        u, v = cut.flow(*constant(30.5, 7.5))
        assert (u == 127.5 - 7.5).all()
        assert (v == 127.5 + 30.5).all()
        assert (cut.rgb(image) == np.rot90(image, -1)).all()

    def test_half_turn_negates_and_reverses(self, rng: np.random.Generator) -> None:
        cut, image = AugmentedCut(WHOLE, warp=rotation(180)), picture(rng)
        for before, after in zip(
            (image[..., 0], image[..., 1]), cut.flow(image[..., 0], image[..., 1]), strict=True
        ):
            assert (after == 255 - before[::-1, ::-1]).all()
        assert (cut.rgb(image) == image[::-1, ::-1]).all()

    def test_shear_of_a_known_flow(self) -> None:
        u, v = AugmentedCut(WHOLE, warp=shear(0.5, 0)).flow(*constant(-10.5, 20.5))
        inside = came_from(shear(0.5, 0))[2] > 0
        assert (np.abs(u[inside] - (127.5 - 10.5 + 10.25)) <= 0.5).all()
        assert (v[inside] == 127.5 + 20.5).all()

    def test_vectors_are_limited(self) -> None:
        u, v = AugmentedCut(WHOLE, warp=rotation(45)).flow(*constant(127.5, -127.5))
        assert u[20, 20] == 255
        assert v[20, 20] in (127, 128)

    @pytest.mark.parametrize(
        ("warp", "mirrored"),
        [
            (rotation(25), rotation(-25)),
            (shear(0.3, 0), shear(-0.3, 0)),
            (shear(0, 0.3), shear(0, -0.3)),
            (translation(6, 4), translation(-6, 4)),
        ],
    )
    def test_mirrors_commute(
        self, warp: Matrix, mirrored: Matrix, rng: np.random.Generator
    ) -> None:
        """To mirror and turn is to turn the other way and mirror."""
        image, box = picture(rng), Box(0.1, 0.2, 0.8, 0.7)
        first = clips(AugmentedCut(Geometry(box, SIZE, mirror=True), warp=warp), image)
        last = clips(AugmentedCut(Geometry(box, SIZE), warp=mirrored), image)
        for modality, mirror in enumerate((mirror_rgb, mirror_flow)):
            assert difference(first[modality].numpy(), mirror(last[modality]).numpy()) <= 4
            assert difference(first[modality].numpy(), last[modality].numpy()) > 40

    @pytest.mark.parametrize("warp", [None, rotation(0)])
    def test_nothing_is_nothing(self, warp: Matrix | None, rng: np.random.Generator) -> None:
        image = picture(rng, 0, 255)
        for one, other in zip(
            clips(AugmentedCut(WHOLE, warp=warp), image), clips(WHOLE, image), strict=True
        ):
            assert torch.equal(one, other)


def recoloured(matrix: Matrix, image: Uint8) -> np.ndarray:
    """Colours by a matrix, limited to 0..255."""
    return np.clip(image @ matrix[:3, :3].T + matrix[:3, 3], 0, 255)


class TestColours:
    @pytest.mark.parametrize("factor", [0.2, 0.8, 1.5])
    @pytest.mark.parametrize(
        ("matrix", "reference"),
        [
            (brightness, functional.adjust_brightness),
            (saturation, functional.adjust_saturation),
        ],
    )
    def test_as_torchvisions(
        self,
        matrix: Callable[[float], Matrix],
        reference: Callable[[Tensor, float], Tensor],
        factor: float,
        rng: np.random.Generator,
    ) -> None:
        image = picture(rng)
        expected = reference(torch.from_numpy(image).permute(2, 0, 1), factor).permute(1, 2, 0)
        assert np.abs(recoloured(matrix(factor), image) - expected.numpy()).max() <= 2

    def test_contrast(self) -> None:
        levels = np.array([[27, 127, 128, 217]] * 3, np.uint8).T
        exact = np.array([77.25, 127.25, 127.75, 172.25])
        assert np.abs(recoloured(contrast(0.5), levels) - exact[:, None]).max() < 1e-9

    def test_hue(self, rng: np.random.Generator) -> None:
        grey, image = np.full((1, 3), 99, np.uint8), picture(rng, 100, 150)
        for turns in (-0.3, 0.1, 0.5):
            assert np.abs(recoloured(hue(turns), grey) - 99).max() < 0.5
            assert np.abs((recoloured(hue(turns), image) - image) @ LUMA).max() < 0.5
        assert np.abs(hue(0.2) @ hue(0.3) @ hue(0.5) - np.eye(4)).max() < 1e-9
        red = torch.tensor([160.0, 100, 100]).view(3, 1, 1) / 255
        for turns in (-1 / 3, 1 / 3):
            like = int(functional.adjust_hue(red, turns).argmax())
            assert hue(turns)[:3, 0].argmax() == like  # red becomes green, or blue

    def test_jitter_reaches_all_of_its_ranges(self) -> None:
        def drawn(image: list[int], **strengths: float) -> np.ndarray:
            jitter = ColourJitter(
                **{"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0} | strengths
            )
            pixel = np.array([[image]], np.uint8)
            cut = Geometry(WHOLE_FRAME, (1, 1))
            return np.array(
                [jitter(cut, np.random.default_rng(seed)).rgb(pixel)[0, 0] for seed in range(300)]
            ).astype(float)

        for strengths, image, exact in [
            ({"brightness": 0.4}, [100, 100, 100], (60, 140)),
            ({"contrast": 0.4}, [77, 77, 77], (56.8, 97.2)),
            ({"saturation": 0.5}, [200, 100, 100], (165, 235)),
        ]:
            red = drawn(image, **strengths)[:, 0]
            assert exact[0] - 1 <= red.min() <= exact[0] + 2
            assert exact[1] - 2 <= red.max() <= exact[1] + 1
        colours = drawn([160, 100, 100], hue=0.1)
        assert len(np.unique(colours, axis=0)) > 10
        assert (colours[:, 0] > colours[:, 1:].max(axis=1)).all()  # a tenth of a turn: still red
        assert (colours[:, 1] > colours[:, 2]).any()
        assert (colours[:, 1] < colours[:, 2]).any()

    @pytest.mark.parametrize("strength", [-0.9, -0.5, 0.5, 0.9])
    @pytest.mark.parametrize("name", ["posterize", "solarize", "sharpness"])
    def test_operations_as_torchvisions(
        self, name: str, strength: float, rng: np.random.Generator
    ) -> None:
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if name == "posterize":
            expected = functional.posterize(pixels, 8 - round(4 * abs(strength)))
        elif name == "solarize":
            expected = functional.solarize(pixels, 256 * (1 - abs(strength)))
        else:
            expected = functional.adjust_sharpness(pixels, 1 + 0.9 * strength)
        got = RECOLOURS[name](strength)(image)
        inner = np.s_[1:-1, 1:-1]  # torchvision leaves borders as they are
        away = difference(got[inner], expected.permute(1, 2, 0).numpy()[inner])
        assert away <= (1 if name == "sharpness" else 0)
        assert difference(got, image) > 2


AUGMENTATIONS: list[Augmentation] = [ColourJitter(), RandAugment(3, 9)]


class TestClips:
    @pytest.mark.parametrize("augment", AUGMENTATIONS)
    def test_images_of_a_clip_change_alike(
        self, augment: Augmentation, rng: np.random.Generator
    ) -> None:
        image = picture(rng)
        for _ in range(30):
            rgb, flow = clips(augment(WHOLE, rng), image, count=4)
            assert (rgb.dtype, flow.dtype) == (torch.uint8, torch.uint8)
            assert (rgb == rgb[:, :1]).all()
            for component in (0, 1):
                assert (flow[component::2] == flow[component]).all()

    @pytest.mark.parametrize("augment", AUGMENTATIONS)
    def test_a_seed_is_a_clip(self, augment: Augmentation, rng: np.random.Generator) -> None:
        image, seen = picture(rng), []
        for seed in range(20):
            one, same = (clips(augment(WHOLE, np.random.default_rng(seed)), image) for _ in "ab")
            assert all(map(torch.equal, one, same))
            seen.append(one[0])
        different = {clip.numpy().tobytes() for clip in seen}
        assert len(different) >= 15  # some operations are nothing, or the same again

    @pytest.mark.parametrize(
        "augment", [ColourJitter(0, 0, 0, 0), RandAugment(20, 0), RandAugment(0, 9)]
    )
    def test_no_strength_is_nothing(self, augment: Augmentation, rng: np.random.Generator) -> None:
        image = picture(rng, 0, 255)
        for _ in range(20):
            for one, other in zip(
                clips(augment(WHOLE, rng), image), clips(WHOLE, image), strict=True
            ):
                assert torch.equal(one, other)

    def test_colours_leave_flow(self, rng: np.random.Generator) -> None:
        image = picture(rng)
        cut = Geometry(Box(0.1, 0.2, 0.5, 0.5), SIZE, mirror=True)
        rgb, flow = clips(ColourJitter()(cut, rng), image)
        plain_rgb, plain_flow = clips(cut, image)
        assert not torch.equal(rgb, plain_rgb)
        assert torch.equal(flow, plain_flow)


class TestRandAugment:
    def drawn(self, augment: RandAugment, count: int) -> list[AugmentedCut]:
        cuts = [augment(WHOLE, np.random.default_rng(seed)) for seed in range(count)]
        assert all(isinstance(cut, AugmentedCut) for cut in cuts)
        return cuts  # type: ignore[return-value]

    def test_every_operation_comes_up(self) -> None:
        cuts = self.drawn(RandAugment(1, 5), 1200)
        warps = [cut.warp for cut in cuts if cut.warp is not None]
        number = 1 + len(RECOLOURS) + len(WARPS)
        assert len(warps) == pytest.approx(1200 * len(WARPS) / number, rel=0.15)
        nothing = sum(cut.warp is None and not cut.recolour for cut in cuts)
        assert nothing == pytest.approx(1200 / number, rel=0.3)
        found = {tuple(np.round(warp, 6).ravel()) for warp in warps}
        size = SIZE[0] * 0.45 / 2
        expected = [
            make
            for sign in (-1, 1)
            for make in (
                shear(0.15 * sign, 0),
                shear(0, 0.15 * sign),
                translation(size * sign, 0),
                translation(0, size * sign),
                rotation(15 * sign),
            )
        ]
        assert found == {tuple(np.round(warp, 6).ravel()) for warp in expected}

    def test_several_warps_are_one(self) -> None:
        def key(warp: Matrix) -> tuple[float, ...]:
            return tuple(np.round(warp, 6).ravel() + 0.0)

        single = [c.warp for c in self.drawn(RandAugment(1, 9), 300) if c.warp is not None]
        single = list({key(warp): warp for warp in single}.values())
        double = [c.warp for c in self.drawn(RandAugment(2, 9), 300) if c.warp is not None]
        assert len(single) == 2 * len(WARPS)
        products = {key(last @ first) for last in single for first in single}
        composed = {key(warp) for warp in double} - {key(warp) for warp in single}
        assert len(composed) > 20
        assert composed <= products

    def test_more_magnitude_changes_more(self, rng: np.random.Generator) -> None:
        image = picture(rng)
        plain = image.astype(float)
        changes = [
            np.mean([np.abs(cut.rgb(image) - plain).mean() for cut in self.drawn(augment, 200)])
            for augment in (RandAugment(1, 2), RandAugment(1, 5), RandAugment(1, 9))
        ]
        assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (ColourJitter, {"brightness": -0.1}, r"data\.augment\.brightness=-0\.1.*0 to 1"),
        (ColourJitter, {"hue": 0.6}, r"data\.augment\.hue=0\.6.*0 to 0\.5"),
        (RandAugment, {"num_ops": -1}, r"data\.augment\.num_ops=-1"),
        (RandAugment, {"num_ops": 1.5}, r"data\.augment\.num_ops=1\.5"),
        (RandAugment, {"magnitude": 11}, r"data\.augment\.magnitude=11"),
    ],
)
def test_wrong_arguments_are_refused(
    make: Callable[..., Augmentation], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make(**arguments)
