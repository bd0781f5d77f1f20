"""Flow that is computed after the batch has been moved, against flow that is stored."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.dataset import Sample, TestView, TrainView, VideoDataset, View
from src.data.stores import FlowFolders, FramesForFlow, OnTheFlyFlowStore, VideoFiles
from src.data.transforms import CornerJitterCrop
from src.data.videos import Video
from src.extraction.extract import extract_flow
from src.flow.after_transfer import FRAMES, LENGTHS, FlowAfterTransfer
from src.flow.settings import FlowSettings
from src.media.images import open_images
from src.utils.errors import UserError
from tests.builders import moving_texture, write_video

STACK, SIZE = 4, (64, 96)
# Few iterations: what is tested is what happens around them.
SETTINGS = FlowSettings("tvl1_torch", {"warps": 2, "outerIterations": 2, "nscales": 3}, SIZE[0])
SHIFT = (2.0, -1.0)  # pixels per frame, of the frames as they are stored


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    root = tmp_path_factory.mktemp("videos")
    return Video("v", write_video(root / "v.mp4", moving_texture(SHIFT, 12, SIZE)), 0)


def sample_of(video: Video, view: View) -> Sample:
    """A sample as it is in the batch, with its flow."""
    flow = OnTheFlyFlowStore(VideoFiles(), SETTINGS)
    sample = VideoDataset([video], VideoFiles(), flow, view, STACK, seed=0)[0, 0]
    assert "flow" not in sample
    batch = {key: torch.stack([x, x]) if torch.is_tensor(x) else x for key, x in sample.items()}
    after = FlowAfterTransfer(SETTINGS)(batch)
    assert not {FRAMES, LENGTHS} & after.keys()
    assert torch.equal(after["flow"][0], after["flow"][1])
    return {key: x[0] if torch.is_tensor(x) else x for key, x in after.items()}


@pytest.mark.slow
def test_whole_frames_have_the_flow_that_would_be_stored(video: Video, tmp_path: Path) -> None:
    view = TestView(count=2, short_side=SIZE[0])
    computed = sample_of(video, view)["flow"]
    extract_flow([video.path], tmp_path, SETTINGS, workers=1)
    library = FlowFolders(open_images(tmp_path))
    stored = VideoDataset([video], VideoFiles(), library, view, STACK, seed=0)[0, 0]["flow"]
    assert computed.shape == stored.shape == (2 * STACK, 2, *SIZE)
    assert computed.dtype == torch.uint8
    difference = (computed.int() - stored.int()).abs()
    assert difference.float().mean() < 0.5  # JPEG only


@pytest.mark.slow
@pytest.mark.parametrize("modalities", ["both", "flow"])
def test_vectors_have_the_length_of_stored_flow(modalities: str, video: Video) -> None:
    """A crop is enlarged by half: its vectors are longer, and are brought back."""
    seen = set()
    for seed in range(4):
        crop = CornerJitterCrop(32, jitter=0)
        view = TrainView(1, (1, 2), crop, 48, SIZE[0], hflip=True)
        flow = OnTheFlyFlowStore(VideoFiles(), SETTINGS)
        rgb = VideoFiles() if modalities == "both" else None
        sample = VideoDataset([video], rgb, flow, view, STACK, seed)[0, 0]
        sample |= {key: sample[key][None] for key in (FRAMES, LENGTHS)}
        levels = FlowAfterTransfer(SETTINGS)(sample)["flow"][0].float()
        inside = levels[..., 10:-10, 10:-10] * 40 / 255 - 20
        u, v = inside[0::2].median().item(), inside[1::2].median().item()
        assert v == pytest.approx(SHIFT[1], abs=0.3)
        assert abs(u) == pytest.approx(SHIFT[0], abs=0.3)
        seen.add(u > 0)
    assert seen == {True, False}  # mirrored ones among them


def test_raft_gets_colors(video: Video) -> None:
    settings = FlowSettings("raft", {"weights": None, "model": "small", "iterations": 1}, SIZE[0])
    source = FramesForFlow(VideoFiles().open(video), settings)
    cut = TestView(1, 64).geometry(SIZE, np.random.default_rng(0))
    sample = source.read(np.array([5]), STACK, lambda _: cut)
    assert sample[FRAMES].shape == (1, STACK + 1, *SIZE, 3)
    batch = FlowAfterTransfer(settings)({key: x[None] for key, x in sample.items()})
    assert batch["flow"].shape == (1, 2 * STACK, 1, *SIZE)


def test_frames_beyond_the_ends_are_repeated(video: Video) -> None:
    source = FramesForFlow(VideoFiles().open(video), SETTINGS)
    cut = TestView(1, 64).geometry(SIZE, np.random.default_rng(0))
    frames = source.read(np.array([0, 11]), STACK, lambda _: cut)[FRAMES]
    assert torch.equal(frames[0, 0], frames[0, STACK // 2])
    assert not torch.equal(frames[0, STACK // 2], frames[0, STACK // 2 + 1])
    assert torch.equal(frames[1, -1], frames[1, STACK // 2])


def test_a_single_frame_has_no_flow(tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mp4", moving_texture(SHIFT, 1, SIZE))
    with pytest.raises(UserError, match="single frame"):
        FramesForFlow(VideoFiles().open(Video("one", path, 0)), SETTINGS)
