"""From a folder of small videos and their flow to batches."""

import logging
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from src.data import dataset
from src.data.datamodule import VideoDataModule
from src.data.dataset import Sample, TestView, TrainView, ValView, VideoDataset
from src.data.loading import EpochSampler, collate
from src.data.stores import FlowFolders, VideoFiles
from src.data.transforms import CornerJitterCrop
from src.data.videos import Split, Video
from src.flow.algorithm import quantize
from src.flow.settings import FlowSettings
from src.media.images import open_images
from src.media.sources import Uint8
from src.utils.errors import UserError
from tests.builders import moving_texture, small_datamodule, write_flow, write_video

FRAMES, SIZE = 24, (48, 64)
U, V = 5.0, -3.0  # the constant flow of every video, in pixels
QUANTISED_U, QUANTISED_V = quantize(np.array([U, V], dtype=np.float32)).tolist()
STACK = 4
CENTRE = ValView(count=3, stride=(2, 4), crop_size=24, short_side=32)


def constant_flow(count: int) -> Uint8:
    """Quantized fields (N, H, W, 2) of u = 5, v = -3 pixels."""
    return quantize(np.broadcast_to(np.array([U, V], np.float32), (count, *SIZE, 2)))


def write_pair(root: Path, name: str, label: int, frames: int, fields: int) -> Video:
    """Write a video of a moving texture, of a brightness of its own, and constant flow."""
    texture = moving_texture((1 + label, 0.5), frames, SIZE) // 2 + 20 * label
    write_flow(root / "flow", name, constant_flow(fields))
    return Video(name, write_video(root / "videos" / f"{name}.mp4", texture), label % 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of six videos, of two classes, and of their flow."""
    root = tmp_path_factory.mktemp("tiny")
    for number in range(6):
        write_pair(root, f"v{number}", number, FRAMES, FRAMES - 1)
    return root


def flow_in(root: Path) -> FlowFolders:
    return FlowFolders(open_images(root))


def split(root: Path) -> Split:
    """Five training and, with one of them, two test videos."""
    videos = [Video(f"v{n}", root / "videos" / f"v{n}.mp4", n % 2) for n in range(6)]
    return Split(("walk", "run"), tuple(videos[:5]), tuple(videos[4:]))


def datamodule(root: Path, **changes: Any) -> VideoDataModule:
    options = {"flow": str(root / "flow"), "flow_stack": STACK, "frame_stride": (2, 4)}
    return small_datamodule(lambda: split(root), **options | changes)


def training_batches(module: VideoDataModule, epoch: int = 0) -> list[Sample]:
    loader = module.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)
    loader.sampler.set_epoch(epoch)
    return list(loader)


def same(some: list[Sample], others: list[Sample]) -> bool:
    return len(some) == len(others) and all(
        one.keys() == other.keys()
        and one["video"] == other["video"]
        and all(torch.equal(one[k], other[k]) for k in one.keys() - {"video"})
        for one, other in zip(some, others, strict=True)
    )


class TestBatches:
    @pytest.mark.parametrize("modalities", [["rgb"], ["flow"], ["rgb", "flow"]])
    def test_training(self, modalities: list[str], tiny: Path) -> None:
        batches = training_batches(datamodule(tiny, modalities=modalities))
        shapes = {"rgb": (3, 3, 24, 24), "flow": (2 * STACK, 3, 24, 24)}
        names = []
        for batch, size in zip(batches, (2, 2, 1), strict=True):
            assert batch.keys() == {*modalities, "label", "video"}
            for modality in modalities:
                assert batch[modality].dtype == torch.uint8
                assert batch[modality].shape == (size, *shapes[modality])
            assert batch["label"].tolist() == [int(name[1:]) % 2 for name in batch["video"]]
            names += batch["video"]
        assert sorted(names) == ["v0", "v1", "v2", "v3", "v4"]

    def test_validation_is_the_center_of_the_central_clip(self, tiny: Path) -> None:
        (batch,) = datamodule(tiny).val_dataloader()
        assert batch["video"] == ["v4", "v5"]
        assert batch["rgb"].shape == (2, 3, 3, 24, 24)
        assert (batch["flow"][:, 0::2] == QUANTISED_U).all()  # never mirrored
        assert (batch["flow"][:, 1::2] == QUANTISED_V).all()
        frame = moving_texture((6, 0.5), FRAMES, SIZE)[8] // 2 + 100  # of v5: frames 8, 11, 14
        center = cv2.resize(frame[6:42, 14:50], (24, 24), interpolation=cv2.INTER_AREA)
        assert np.abs(batch["rgb"][1, :, 0].permute(1, 2, 0).numpy() - center.astype(int)).max() < 8

    def test_test_videos_are_whole(self, tiny: Path) -> None:
        batches = list(datamodule(tiny, short_side=24).test_dataloader())
        assert [batch["video"] for batch in batches] == [["v4"], ["v5"]]
        assert batches[0]["rgb"].shape == (1, 3, 5, 24, 32)
        assert batches[0]["flow"].shape == (1, 2 * STACK, 5, 24, 32)

    @pytest.mark.parametrize("epoch", [0, 3])
    def test_same_for_any_number_of_workers(self, epoch: int, tiny: Path) -> None:
        alone = training_batches(datamodule(tiny), epoch)
        for workers in (1, 2):
            assert same(
                alone, training_batches(datamodule(tiny, loader={"num_workers": workers}), epoch)
            )

    def test_persistent_workers_hear_of_the_next_epoch(self, tiny: Path) -> None:
        loader = datamodule(tiny, loader={"num_workers": 1}).train_dataloader()
        assert isinstance(loader.sampler, EpochSampler)
        list(loader)
        loader.sampler.set_epoch(1)
        assert same(list(loader), training_batches(datamodule(tiny), epoch=1))

    def test_epoch_and_seed_change_order_and_clips(self, tiny: Path) -> None:
        def clips(batches: list[Sample]) -> tuple[list[str], dict[str, Tensor]]:
            names = [name for batch in batches for name in batch["video"]]
            return names, dict(zip(names, torch.cat([b["rgb"] for b in batches]), strict=True))

        order, first = clips(training_batches(datamodule(tiny)))
        others = [
            training_batches(datamodule(tiny), epoch=1),
            training_batches(datamodule(tiny, seed=8)),
        ]
        for other_order, other in map(clips, others):
            assert order != other_order
            assert first.keys() == other.keys()
            assert not any(torch.equal(first[name], other[name]) for name in first)

    @pytest.mark.parametrize("allowed", [True, False])
    def test_mirroring(self, allowed: bool, tiny: Path) -> None:
        module = datamodule(tiny, hflip=allowed, modalities=["flow"])
        seen = []
        for epoch in range(8):
            for batch in training_batches(module, epoch):
                u, v = batch["flow"][:, 0::2], batch["flow"][:, 1::2]
                assert (v == QUANTISED_V).all()
                mirrored = u[:, 0, 0, 0, 0] == 255 - QUANTISED_U
                expected = torch.where(mirrored, 255 - QUANTISED_U, QUANTISED_U)
                assert (u == expected[:, None, None, None, None]).all()  # all frames alike
                seen += mirrored.tolist()
        assert (8 <= sum(seen) <= 32) if allowed else not any(seen)  # of 40


def test_both_modalities_show_the_same_pixels(tmp_path: Path) -> None:
    """Flow images whose u is the grey of their frame, stored at half the size of the frames."""
    frames = moving_texture((4, 2), FRAMES, (192, 256))
    video = Video("v", write_video(tmp_path / "v.mp4", frames), 0)
    u = np.stack([cv2.resize(f[..., 0], (128, 96), interpolation=cv2.INTER_AREA) for f in frames])
    write_flow(tmp_path, "v", np.stack([u, np.full_like(u, 128)], axis=-1)[:-1])
    view = TrainView(4, (1, 4), CornerJitterCrop(56), 48, short_side=64, hflip=True)
    data = VideoDataset([video], VideoFiles(), flow_in(tmp_path), view, STACK, seed=0)
    mirrored = 0
    for epoch in range(20):
        sample = data[0, epoch]
        grey = sample["rgb"].float().mean(0)
        u1 = sample["flow"][STACK].float()  # the stack's field number L/2 starts from the frame
        straight, negated = (float((grey - x).abs().mean()) for x in (u1, 255 - u1))
        # The field before or after the right one differs by 15.
        assert min(straight, negated) < 5 < 20 < max(straight, negated)
        mirrored += negated < straight
    assert 4 <= mirrored <= 16


class TestFlowCount:
    @pytest.fixture(autouse=True)
    def _forget_warnings(self) -> None:
        dataset._warn_once.cache_clear()

    def read(self, root: Path, video: Video) -> Sample:
        view = TestView(count=3, short_side=32)
        data = VideoDataset([video], VideoFiles(), flow_in(root / "flow"), view, STACK, seed=0)
        data[0, 0]
        return data[0, 1]

    @pytest.mark.parametrize("surplus", [-1, 1])
    def test_one_field_off_gives_one_warning(
        self, surplus: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sample = self.read(tmp_path, write_pair(tmp_path, "odd", 0, 16, 15 + surplus))
        assert sample["flow"].shape == (2 * STACK, 3, 32, 43)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"video odd has 16 frames and {15 + surplus} flow fields" in record.message

    def test_flow_of_another_video(self, tmp_path: Path) -> None:
        video = write_pair(tmp_path, "wrong", 0, 16, 5)
        with pytest.raises(UserError, match="video wrong has 16 frames and 5 flow fields"):
            self.read(tmp_path, video)

    def test_short_video(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        sample = self.read(tmp_path, write_pair(tmp_path, "short", 0, 4, 3))
        assert sample["rgb"].shape == (3, 3, 32, 43)
        assert sample["flow"].shape == (2 * STACK, 3, 32, 43)
        (record,) = caplog.records
        assert "video short has 4 frames, too few for a stack of 4" in record.message

    def test_usual_flow_gives_no_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.read(tmp_path, write_pair(tmp_path, "usual", 0, 16, 15))
        assert not caplog.records


def test_a_rank_without_a_test_video_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would skip it, and the others wait for it at the end of the test."""
    module = datamodule(tiny)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    for ranks in (2, 3):
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda ranks=ranks: ranks)
        module.train_dataloader()
        for evaluation in (module.val_dataloader, module.test_dataloader):
            if ranks == 2:
                assert len(evaluation()) == 1
                continue
            with pytest.raises(UserError, match="2 videos to test on are not one for each of 3 d"):
                evaluation()


class TestDrawSampler:
    @staticmethod
    def deal(count: int, ranks: int, shuffle: bool, epoch: int = 0) -> list[list[int]]:
        """What each rank gets."""
        dealt = []
        for rank in range(ranks):
            sampler = EpochSampler(count, seed=3, shuffle=shuffle)
            sampler.rank, sampler.ranks = rank, ranks
            sampler.set_epoch(epoch)
            draws = list(sampler)
            assert len(draws) == len(sampler)
            assert all(draw[1] == epoch for draw in draws)
            dealt.append([index for index, _ in draws])
        return dealt

    @pytest.mark.parametrize("count", [1, 6, 11])
    @pytest.mark.parametrize("ranks", [1, 2, 3])
    def test_evaluation_counts_every_video_once(self, ranks: int, count: int) -> None:
        dealt = self.deal(count, ranks, shuffle=False)
        assert sorted(chain(*dealt)) == list(range(count))
        assert all(indices == sorted(indices) for indices in dealt)

    @pytest.mark.parametrize("count", [1, 6, 11])
    @pytest.mark.parametrize("ranks", [1, 2, 3])
    def test_training_ranks_go_in_step(self, ranks: int, count: int) -> None:
        dealt = self.deal(count, ranks, shuffle=True)
        lengths = {len(indices) for indices in dealt}
        assert lengths == {-(-count // ranks)}
        assert set(chain(*dealt)) == set(range(count))

    def test_shuffles_anew_each_epoch(self) -> None:
        orders = [self.deal(20, 1, shuffle=True, epoch=epoch)[0] for epoch in (0, 1, 0)]
        assert orders[0] == orders[2]
        assert orders[0] != orders[1]
        assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": []}, "data.modalities"),
        ({"modalities": ["rgb", "audio"]}, "data.modalities.*audio"),
        ({"flow_stack": 5}, "data.flow_stack=5"),
        ({"flow_stack": 0}, "data.flow_stack=0"),
        ({"frame_stride": (0, 3)}, r"data\.frame_stride=\[0, 3\]"),
        ({"frame_stride": (5, 3)}, r"data\.frame_stride=\[5, 3\]"),
        ({"frames": 0}, "data.frames=0"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"num_classes": 51}, "data.num_classes=51, but the lists name 2"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, Any], message: str, tiny: Path) -> None:
    with pytest.raises(UserError, match=message):
        datamodule(tiny, **changes)


def test_error_in_a_worker_reaches_the_user_as_one_line(tiny: Path) -> None:
    video = Video("gone (1)", tiny / "videos" / "gone (1).mp4", 0)
    data = VideoDataset([video], VideoFiles(), None, CENTRE, STACK, seed=0)
    loader = DataLoader(data, sampler=EpochSampler(1, seed=0, shuffle=False), num_workers=1)
    with pytest.raises(UserError) as error:
        next(iter(loader))
    assert str(error.value) == f"video {video.path} does not exist"


@pytest.mark.slow
def test_missing_flow_names_the_video(tiny: Path) -> None:
    video = Video("noflow", tiny / "videos" / "v0.mp4", 0)
    data = VideoDataset([video], VideoFiles(), flow_in(tiny / "flow"), CENTRE, STACK, seed=0)
    with pytest.raises(UserError, match="noflow"):
        data[0, 0]


class TestCollate:
    @staticmethod
    def samples(*widths: int) -> list[Sample]:
        return [
            {"rgb": torch.zeros(3, 2, 4, width, dtype=torch.uint8), "label": 1, "video": "v"}
            for width in widths
        ]

    def test_stacks(self) -> None:
        batch = collate(self.samples(6, 6))
        assert batch["rgb"].shape == (2, 3, 2, 4, 6)
        assert batch["label"].tolist() == [1, 1]
        assert batch["video"] == ["v", "v"]

    def test_different_sizes(self) -> None:
        with pytest.raises(UserError, match=r"\(4, 6\), \(4, 8\).*data\.test\.batch_size=1"):
            collate(self.samples(6, 8))


def test_flow_settings_are_those_beside_the_flow(tiny: Path, tmp_path: Path) -> None:
    assert datamodule(tiny).flow_made_by == FlowSettings()
    settings = FlowSettings("dis", {"preset": "fast"}, short_side=128, bound=8.0)
    for component in "uv":
        (tmp_path / component).symlink_to(tiny / "flow" / component)
    settings.save(tmp_path)
    assert datamodule(tiny, flow=str(tmp_path)).flow_made_by == settings
