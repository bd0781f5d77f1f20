import inspect
import logging
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from src.flow import tvl1_torch
from src.flow.algorithm import Fields, Frames, TVL1Parameters
from src.flow.settings import FlowSettings
from src.flow.tvl1_torch import DEFAULTS, tvl1_flow
from src.media.sources import resize
from src.utils.errors import UserError
from tests.builders import CLIPS, moving_texture

CV = FlowSettings("tvl1").make()
OURS = FlowSettings("tvl1_torch").make()


def grey(images: Frames) -> Frames:
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])


def error(field: Fields, other: Fields, border: int = 0) -> npt.NDArray[np.float32]:
    """Endpoint errors (N, H, W) in pixels, those at the border left out."""
    inside = slice(border, -border or None)
    return np.linalg.norm(field - other, axis=-1)[:, inside, inside]


def textures(count: int = 3) -> Frames:
    """Grey frames; each pair moves differently, and the last not at all."""
    frames = grey(moving_texture((2.0, -1.0), frames=count, size=(48, 70)))
    return np.concatenate([frames, frames[-1:]])


@pytest.mark.parametrize(
    "parameters",
    [
        {"nscales": 1, "warps": 1, "outerIterations": 1, "innnerIterations": 1},
        {"nscales": 1, "warps": 2, "outerIterations": 2, "innnerIterations": 5},
        {"nscales": 1, "medianFiltering": 3},
        {"nscales": 2, "medianFiltering": 1},
        {"nscales": 9, "scaleStep": 0.7},  # of which the last would be too small
        {"epsilon": 0.05},
        {"tau": 0.1, "lambda_": 0.3, "theta": 0.2, "warps": 2},
    ],
    ids=str,
)
def test_is_opencvs(parameters: dict[str, Any]) -> None:
    frames = textures(2)
    theirs = FlowSettings("tvl1", parameters).make().fields(frames[:-1], frames[1:])
    ours = FlowSettings("tvl1_torch", parameters).make().fields(frames[:-1], frames[1:])
    assert np.abs(theirs).max() > 0.5
    assert error(ours, theirs).mean() < 2e-3
    assert error(ours, theirs, border=8).max() < 0.01


def test_same_parameters_as_opencvs_and_as_the_files() -> None:
    names = {"tvl1": CV, "tvl1_torch": OURS}
    settings = [FlowSettings(name).parameters for name in names]
    assert settings[0] == settings[1]
    assert settings[0] == {name: getattr(DEFAULTS, name) for name in settings[0]}
    assert len(inspect.signature(TVL1Parameters).parameters) == len(settings[0])


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not part of the project")
@pytest.mark.parametrize(
    ("clip", "first"),
    [
        ("test.avi", 0),
        ("part_0.mp4", 10),
        ("demo_spatiotemporal_det.mp4", 10),
        ("nasa_13013.mp4", 25),
    ],
)
def test_real_clips(clip: str, first: int) -> None:
    """Rounding decides where there is no right flow: OpenCV differs as much from itself.

    So it does about when to stop, which is skipped here.
    """
    unstopped = {"epsilon": 0.0, "outerIterations": 1}
    capture = cv2.VideoCapture(str(CLIPS / clip))
    frames = [capture.read()[1] for _ in range(first + 2)][-2:]
    small = grey(np.stack([resize(frame[..., ::-1], (96, 128)) for frame in frames]))
    theirs, ours = (
        FlowSettings(name, unstopped).make().fields(small[:1], small[1:])
        for name in ("tvl1", "tvl1_torch")
    )
    errors = error(ours, theirs, border=8)
    assert errors.mean() < 0.05
    assert np.median(errors) < 0.005


def moved(motion: npt.NDArray[np.float64]) -> tuple[Frames, Fields]:
    """A pair of frames (2, H, W), and the flow (1, H, W, 2) of an affine `motion` (2, 3)."""
    image = grey(moving_texture((0.0, 0.0), frames=1))[0]
    height, width = image.shape
    second = cv2.warpAffine(image, motion, (width, height), flags=cv2.INTER_CUBIC)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    flow = np.stack([x, y, np.ones_like(x)], axis=-1) @ motion.T - np.stack([x, y], axis=-1)
    return np.stack([image, second]), flow[None].astype(np.float32)


@pytest.mark.parametrize(
    "motion",
    [
        np.array([[1, 0, 1.3], [0, 1, -0.4]]),
        np.array([[1, 0, -3.75], [0, 1, 2.5]]),
        cv2.getRotationMatrix2D((48, 32), 4.0, 1.0),
        cv2.getRotationMatrix2D((48, 32), 0.0, 1.05),
    ],
    ids=["less than a pixel", "shift", "rotation", "zoom"],
)
def test_known_motion_is_found_as_well_as_by_opencv(motion: npt.NDArray[np.float64]) -> None:
    frames, truth = moved(motion)
    theirs, ours = (
        error(algorithm.fields(frames[:1], frames[1:]), truth, border=12).mean()
        for algorithm in (CV, OURS)
    )
    assert ours < 0.1
    assert ours < theirs + 0.01


@pytest.mark.slow
def test_a_pair_is_the_same_in_any_batch() -> None:
    """Some have converged when others continue: they stay as they are."""
    frames = torch.from_numpy(textures())
    first, second = frames[[0, 1, 2, 0]], frames[[1, 2, 3, 3]]
    together = tvl1_flow(first, second)
    assert together.shape == (4, 2, 48, 70)
    assert together[2].abs().max() == 0  # nothing moves there
    for index in range(4):
        alone = tvl1_flow(first[index, None], second[index, None])
        torch.testing.assert_close(together[index, None], alone, rtol=0, atol=1e-5)


def test_pairs_beyond_a_batch() -> None:
    frames = textures()
    field = OURS.fields(frames[:-1], frames[1:])
    assert field.shape == (3, 48, 70, 2)
    expected = tvl1_flow(torch.from_numpy(frames[:-1]), torch.from_numpy(frames[1:]))
    np.testing.assert_allclose(field, np.moveaxis(expected.numpy(), 1, -1), atol=1e-5)


def test_dual_and_flow_operators_are_adjoint() -> None:
    """<grad u, p> = -<u, div p>: what makes the iterations descend."""
    u, px, py = torch.randn(3, 7, 9, dtype=torch.float64)
    px[:, -1] = py[-1] = 0  # as they stay, where there is no forward difference
    zero = torch.zeros_like(u)
    # From p = 0 at a vanishing rate, an update adds rate * gradient.
    rate = torch.tensor(1e-9, dtype=torch.float64)
    right, down = (x / rate for x in tvl1_torch._ascend(zero, zero, u, rate))
    inner = (right * px + down * py).sum()
    torch.testing.assert_close(
        inner, -(u * tvl1_torch._divergence(px, py)).sum(), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("size", [3, 5])
def test_median_is_opencvs(size: int) -> None:
    images = torch.randn(3, 17, 23)
    expected = np.stack([cv2.medianBlur(image, size) for image in images.numpy()])
    np.testing.assert_array_equal(tvl1_torch._median(images, size).numpy(), expected)


def test_scales_are_opencvs() -> None:
    """Each has 0.8 x 0.8 of the pixels, sides rounded, and none is smaller than 16 pixels."""
    assert tvl1_torch._sizes((30, 41), TVL1Parameters(nscales=3)) == [(30, 41), (24, 33), (19, 26)]
    assert tvl1_torch._sizes((30, 41), TVL1Parameters(nscales=9))[-1] == (19, 26)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"gamma": 0.5}, "gamma=0.5.*algorithm tvl1"),
        ({"medianFiltering": 4}, "medianFiltering=4.*3 or 5"),
        ({"medianFiltering": 7}, "medianFiltering=7.*3 or 5"),
        ({"scaleStep": 1.0}, "scaleStep=1.0"),
        ({"theta": 0.0}, "theta=0.0"),
        ({"nscales": 0}, "nscales=0"),
        ({"no_such": 3}, "no_such"),
    ],
)
def test_wrong_parameters_name_the_thing(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        FlowSettings("tvl1_torch", parameters).make()


@pytest.fixture
def compiled_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile on the CPU."""
    tvl1_torch._iterations.cache_clear()
    tvl1_torch._filter.cache_clear()
    monkeypatch.setattr(tvl1_torch, "COMPILED", {"cpu"})
    yield
    tvl1_torch._iterations.cache_clear()
    tvl1_torch._filter.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_here")
def test_compiles_into_graphs_without_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a GPU but for the code generation, for which tests would take too long."""
    tvl1_torch.COMPILED.clear()
    expected = OURS.fields(textures(2)[:1], textures(2)[1:2])
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compile_ = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, dynamic: compile_(
            function, dynamic=dynamic, backend=backend, fullgraph=True
        ),
    )
    tvl1_torch.COMPILED.add("cpu")
    for shape in ((48, 70), (51, 63)):
        frames = np.stack([cv2.resize(each, shape[::-1]) for each in textures(2)])
        field = OURS.fields(frames[:1], frames[1:2])
        if shape == (48, 70):
            np.testing.assert_allclose(field, expected, atol=1e-3)
    assert len(graphs) == 2  # the iterations and the median, each for all scales and sizes


@pytest.mark.usefixtures("compiled_here")
def test_goes_on_where_nothing_can_be_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no Triton here\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    frames = textures(2)
    with caplog.at_level(logging.WARNING, logger=tvl1_torch.__name__):
        field = OURS.fields(frames[:1], frames[1:2])
    np.testing.assert_allclose(field, CV.fields(frames[:1], frames[1:2]), atol=0.05)
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["no Triton here"]
