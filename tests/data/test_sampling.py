"""Properties of the sampling of frames, over many random videos and draws."""

from collections import Counter
from collections.abc import Iterator
from unittest.mock import Mock

import numpy as np
import pytest

from src.data.sampling import (
    STRIDED_SAMPLER,
    ClipSampler,
    Dense,
    Indices,
    Segments,
    StridedSampler,
    evenly_spaced,
    stack_indices,
    valid_range,
)
from src.utils.errors import UserError

DRAWS = 500


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def ranges(rng: np.random.Generator) -> Iterator[tuple[int, int, int, tuple[int, int]]]:
    """Random (first, last, count, stride)."""
    for _ in range(DRAWS):
        first, length, count = rng.integers((0, 1, 1), (10, 120, 12))
        low, high = sorted(rng.integers(1, 16, size=2).tolist())
        yield int(first), int(first + length - 1), int(count), (low, high)


def whole_stack_exists(frame: int, num_frames: int, num_fields: int, stack: int) -> bool:
    """Whether a frame is there with fields frame - L/2 .. frame + L/2 - 1, said once more."""
    fields = range(frame - stack // 2, frame + stack // 2)
    return frame < num_frames and all(0 <= field < num_fields for field in fields)


def stacks(frames: list[int], stack: int, num_fields: int) -> Indices:
    """The fields (T, L) that `stack_indices` puts around the frames; each place is filled once."""
    places = stack_indices(np.array(frames), stack, num_fields)
    assert list(places) == sorted(places)
    fields = np.full((len(frames), stack), -1)
    for field, spatial in places.items():
        for t, position in spatial:
            assert fields[t, position] == -1
            fields[t, position] = field
    assert (fields >= 0).all()
    return fields


@pytest.mark.parametrize("surplus", [-2, -1, 0, 1, 2])
def test_valid_range_is_all_frames_with_a_whole_stack(
    surplus: int, rng: np.random.Generator
) -> None:
    for _ in range(DRAWS):
        stack = int(rng.choice([2, 4, 10]))
        num_frames = int(rng.integers(3, 60))
        num_fields = max(1, num_frames - 1 + surplus)
        first, last = valid_range(num_frames, num_fields, stack)
        valid = [
            frame
            for frame in range(num_frames)
            if whole_stack_exists(frame, num_frames, num_fields, stack)
        ]
        if valid:
            assert list(range(first, last + 1)) == valid
            fields = stacks(valid, stack, num_fields)
            assert (np.diff(fields) == 1).all()  # nothing was clipped
            assert (fields[:, stack // 2] == valid).all()  # field t starts from frame t
        else:
            assert first == last == (num_frames - 1) // 2


@pytest.mark.parametrize("num_frames", [1, 2, 4, 10])
def test_short_video_repeats_border_fields(num_frames: int) -> None:
    num_fields = max(1, num_frames - 1)
    first, last = valid_range(num_frames, num_fields, 10)
    fields = stacks([first, last], 10, num_fields)
    assert fields.shape == (2, 10)
    assert set(fields[0].tolist()) == set(range(num_fields))  # all that there are, in order
    assert (np.diff(fields) >= 0).all()


def test_training_clip_has_one_stride_where_the_grid_is_long_enough(
    rng: np.random.Generator,
) -> None:
    strided = 0
    for first, last, count, stride in ranges(rng):
        clip = STRIDED_SAMPLER(first, last, count, stride, rng)
        assert len(clip) == count
        assert first <= clip.min() <= clip.max() <= last
        if count > 1 and (last - first) // stride[1] + 1 >= count:
            steps = set(np.diff(clip).tolist())
            assert len(steps) == 1
            tau = steps.pop()
            assert stride[0] <= tau <= stride[1]
            assert (clip[0] - first) % tau == 0  # on the grid first : tau : last
            strided += 1
    assert strided > DRAWS / 10


def test_every_stride_is_equally_likely(rng: np.random.Generator) -> None:
    taus = Counter(
        int(np.diff(STRIDED_SAMPLER(0, 200, 4, (5, 9), rng))[0]) for _ in range(4 * DRAWS)
    )
    assert sorted(taus) == [5, 6, 7, 8, 9]
    assert min(taus.values()) > 0.8 * 4 * DRAWS / 5


def test_every_start_is_equally_likely(rng: np.random.Generator) -> None:
    # Frames 5, 8, ..., 29: nine points, so runs of five start at any of the first five. The
    # released code never draws the first.
    starts = Counter(int(STRIDED_SAMPLER(5, 29, 5, (3, 3), rng)[0]) for _ in range(4 * DRAWS))
    assert sorted(starts) == [5, 8, 11, 14, 17]
    assert min(starts.values()) > 0.8 * 4 * DRAWS / 5


def test_grid_of_exactly_the_clip_is_the_clip(rng: np.random.Generator) -> None:
    assert STRIDED_SAMPLER(5, 25, 5, (5, 5), rng).tolist() == [5, 10, 15, 20, 25]


def test_short_grid_gives_evenly_spaced_frames(rng: np.random.Generator) -> None:
    assert STRIDED_SAMPLER(5, 24, 5, (5, 15), rng).tolist() == [5, 10, 14, 19, 24]
    assert STRIDED_SAMPLER(2, 4, 5, (5, 15), rng).tolist() == [2, 2, 3, 4, 4]
    assert STRIDED_SAMPLER(7, 7, 3, (1, 15), rng).tolist() == [7, 7, 7]


def test_single_frame_is_uniform(rng: np.random.Generator) -> None:
    frames = Counter(int(STRIDED_SAMPLER(3, 7, 1, (5, 15), rng)[0]) for _ in range(4 * DRAWS))
    assert sorted(frames) == [3, 4, 5, 6, 7]
    assert min(frames.values()) > 0.8 * 4 * DRAWS / 5


def test_evaluation_frames_cover_the_range_evenly(rng: np.random.Generator) -> None:
    for first, last, count, _ in ranges(rng):
        frames = evenly_spaced(first, last, count)
        assert len(frames) == count
        if count > 1:
            assert (frames[0], frames[-1]) == (first, last)
            step = (last - first) / (count - 1)
            assert (np.abs(np.diff(frames) - step) <= 1).all()
            assert (np.diff(frames) >= 0).all()
        else:
            assert abs(frames[0] - (first + last) / 2) <= 0.5


def test_central_clip_is_symmetric_at_the_mean_stride(rng: np.random.Generator) -> None:
    for first, last, count, stride in ranges(rng):
        frames = STRIDED_SAMPLER(first, last, count, stride, None)
        assert len(frames) == count
        assert first <= frames.min() <= frames.max() <= last
        assert (np.abs(frames + frames[::-1] - (first + last)) <= 1).all()
        room = (last - first) / max(1, count - 1)
        assert (np.abs(np.diff(frames) - min(sum(stride) / 2, room)) <= 1).all()


SAMPLERS = [StridedSampler(), Segments(), Dense(1), Dense(3)]


class TestSamplers:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_frames_are_valid_and_in_order(
        self, sampler: ClipSampler, rng: np.random.Generator
    ) -> None:
        for first, last, count, stride in ranges(rng):
            for chance in (rng, None):
                frames = sampler(first, last, count, stride, chance)
                assert frames.shape == (count,)
                assert frames.dtype == np.int64
                assert first <= frames.min() <= frames.max() <= last
                assert (np.diff(frames) >= 0).all()

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_validation_is_in_the_middle(
        self, sampler: ClipSampler, rng: np.random.Generator
    ) -> None:
        for first, last, count, stride in ranges(rng):
            frames = sampler(first, last, count, stride, None)
            assert (np.abs(frames + frames[::-1] - (first + last)) <= 1).all()

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_single_frame_is_uniform(self, sampler: ClipSampler, rng: np.random.Generator) -> None:
        frames = Counter(int(sampler(3, 7, 1, (5, 15), rng)[0]) for _ in range(4 * DRAWS))
        assert sorted(frames) == [3, 4, 5, 6, 7]
        assert min(frames.values()) > 0.8 * 4 * DRAWS / 5

    def test_strided_run_of_validation(self) -> None:
        assert StridedSampler()(5, 90, 5, (5, 15), None).tolist() == [28, 38, 48, 58, 68]


class TestSegments:
    def test_one_frame_of_each_equally_likely(self, rng: np.random.Generator) -> None:
        """Frames 5..24 in four segments of five: every frame of its segment as often as others."""
        clips = np.array([Segments()(5, 24, 4, (1, 1), rng) for _ in range(2 * DRAWS)])
        assert ((clips - 5) // 5 == np.arange(4)).all()
        counts = np.bincount(clips.ravel() - 5, minlength=20)
        expected = 2 * DRAWS / 5
        assert ((counts - expected) ** 2 / expected).sum() < 37.7  # chi-square, 16 degrees: 0.2 %

    def test_segments_draw_apart(self, rng: np.random.Generator) -> None:
        clips = np.array([Segments()(0, 99, 2, (1, 1), rng) for _ in range(DRAWS)])
        assert abs(np.corrcoef(clips.T)[0, 1]) < 0.15

    def test_draw_next_to_one_is_the_last_frame(self) -> None:
        rng = Mock(random=lambda count: np.full(count, np.nextafter(1, 0)))
        assert Segments()(5, 24, 4, (1, 1), rng)[-1] == 24

    def test_middles(self) -> None:
        assert Segments()(5, 24, 4, (1, 1), None).tolist() == [7, 12, 17, 22]

    def test_fewer_frames_than_segments_are_repeated(self, rng: np.random.Generator) -> None:
        for _ in range(DRAWS):
            assert set(Segments()(7, 8, 5, (1, 1), rng).tolist()) == {7, 8}
        assert Segments()(7, 7, 3, (1, 1), rng).tolist() == [7, 7, 7]


class TestDense:
    def test_its_own_stride_from_every_start(self, rng: np.random.Generator) -> None:
        clips = [Dense(3)(5, 18, 4, (1, 15), rng) for _ in range(4 * DRAWS)]
        assert all((np.diff(clip) == 3).all() for clip in clips)
        starts = Counter(int(clip[0]) for clip in clips)
        assert sorted(starts) == [5, 6, 7, 8, 9]  # 9, 12, 15, 18 is the last
        assert min(starts.values()) > 0.8 * 4 * DRAWS / 5

    def test_short_video_gives_evenly_spaced_frames(self, rng: np.random.Generator) -> None:
        assert Dense(3)(5, 14, 4, (1, 1), rng).tolist() == [5, 8, 11, 14]
        assert Dense(3)(5, 13, 4, (1, 1), rng).tolist() == [5, 8, 10, 13]
        assert Dense(3)(5, 5, 2, (1, 1), rng).tolist() == [5, 5]

    def test_stride_of_nothing(self) -> None:
        with pytest.raises(UserError, match=r"data\.sampler\.stride=0"):
            Dense(0)
