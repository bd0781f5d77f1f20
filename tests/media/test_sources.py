"""Images in any order from a source that reads in order, and flow computed from frames."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from src.flow.algorithm import prepare, quantize
from src.flow.computed import OnTheFlyFlow
from src.flow.settings import FlowSettings
from src.media.sources import Uint8, in_order
from src.utils.errors import UserError
from tests.builders import fields_of, moving_texture


def numbered(count: int, size: tuple[int, int] = (48, 64)) -> Uint8:
    """Frames (N, H, W, 3) of which frame i is of the even grey 20 + 5 i."""
    greys = np.arange(20, 20 + 5 * count, 5, dtype=np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (count, *size, 3)).copy()


@pytest.mark.parametrize("indices", [[], [3], [0, 2, 5], [5, 0, 2], [2, 2, 2], [4, 1, 4, 1, 0]])
def test_in_order(indices: list[int]) -> None:
    asked: list[list[int]] = []

    def ascending(some: Sequence[int]) -> Iterator[int]:
        asked.append(list(some))
        return (index * 10 for index in some)

    assert list(in_order(indices, ascending)) == [index * 10 for index in indices]
    assert asked == ([sorted(set(indices))] if indices else [])


def test_in_order_hands_on_one_image_at_a_time() -> None:
    read: list[int] = []

    def ascending(some: Sequence[int]) -> Iterator[int]:
        for index in some:
            read.append(index)
            yield index

    assert next(in_order([1, 2, 3], ascending)) == 1
    assert read == [1]


class Frames:
    """Frames in memory, with a record of which were read."""

    def __init__(self, frames: Uint8) -> None:
        self.frames, self.num_frames = frames, len(frames)
        self.read: list[int] = []

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        for index in indices:
            self.read.append(index)
            yield self.frames[index]


class TestComputedFlow:
    def test_equals_extraction_by_hand(self) -> None:
        frames = Frames(moving_texture((2, -1), 40))
        settings = FlowSettings("dis", {"preset": "ultrafast", "finest_scale": 0}, 48, bound=8)
        algorithm = settings.make()
        source = OnTheFlyFlow(frames, settings, algorithm)
        assert source.num_fields == 39
        indices = [38, 3, 3, *range(38)]
        fields = fields_of(source, indices)
        assert fields.shape == (41, 48, 72, 2)
        grey = np.stack([prepare(frame, 48, algorithm.color) for frame in frames.frames])
        for index, field in zip(indices, fields, strict=True):
            pair = grey[index : index + 2]
            assert (field == quantize(algorithm.fields(pair[:1], pair[1:])[0], 8)).all()
        # 0.75 of (2, -1) pixels, at 255/16 levels a pixel
        inner = fields[:, 10:-10, 10:-10].mean(axis=(0, 1, 2))
        assert inner == pytest.approx([127.5 + 1.5 * 255 / 16, 127.5 - 0.75 * 255 / 16], abs=2)
        assert frames.read == list(range(40))  # each frame is decoded once, in order

    @pytest.mark.parametrize("batch", [1, 4])
    def test_frames_of_another_shape_have_no_flow(self, batch: int) -> None:
        """Images of a folder may have any; OpenCV and NumPy would each complain in their way."""
        texture = moving_texture((2, -1), 3)
        turned = [np.rot90(frame) for frame in texture]
        frames = Frames(np.concatenate([texture, texture]))
        images = [*texture, *turned]
        frames.rgb = lambda indices: (images[i] for i in indices)  # type: ignore[method-assign]
        settings = FlowSettings("dis", short_side=48)
        source = OnTheFlyFlow(frames, settings, replace(settings.make(), batch=batch))
        assert len(list(source.flow([0, 1]))) == 2
        with pytest.raises(UserError, match="change their shape"):
            list(source.flow(range(source.num_fields)))

    def test_images_too_small_for_an_algorithm_have_no_flow(self) -> None:
        settings = FlowSettings("dis", short_side=4)
        source = OnTheFlyFlow(Frames(moving_texture((2, -1), 2)), settings, settings.make())
        with pytest.raises(UserError, match="no optical flow at this size"):
            list(source.flow([0]))

    def test_single_frame_has_no_flow(self) -> None:
        with pytest.raises(UserError, match="single frame"):
            OnTheFlyFlow(Frames(numbered(1)), FlowSettings("dis"), FlowSettings("dis").make())
