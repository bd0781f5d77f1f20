"""Any mix of places for frames and flow, through the data module to batches."""

import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from src.data.datamodule import VideoDataModule, VideoReading, VideoTest
from src.data.dataset import Sample
from src.data.loading import EpochSampler
from src.data.splits import read_ucf101
from src.data.stores import FlowFolders, FrameFolders, OnTheFlyFlowStore, VideoFiles
from src.data.videos import Split, Video
from src.flow.computed import OnTheFlyFlow
from src.flow.settings import FlowSettings
from src.media.images import FlowImages, FrameImages
from src.media.video_file import VideoFile
from src.utils.errors import UserError
from tests.builders import moving_texture, small_datamodule, write_flow, write_video

FRAMES, SIZE, STACK = 16, (36, 48), 4
CLASSES = ("HandstandPushups", "Archery")
LISTED = [f"{name}/v_{name}_g0{group}_c01" for group in (1, 2, 3) for name in CLASSES]
DIS = FlowSettings("dis", {"preset": "ultrafast"}, short_side=36, bound=8.0)


def on_disk(listed: str) -> str:
    """UCF101's files differ from its lists in one capital letter."""
    return listed.replace("v_HandstandPushups", "v_HandStandPushups")


def pack(folder: Path) -> None:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*.jpg")):
            archive.write(file, f"{folder.name}/{file.relative_to(folder)}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small UCF101 in every form: videos, and frames and flow in folders and zips."""
    root = tmp_path_factory.mktemp("ucf101")
    for number, listed in enumerate(LISTED):
        frames = moving_texture((1 + number, 0.5), FRAMES, SIZE) // 2 + 15 * number
        name = Path(on_disk(listed)).name
        # Without loss but for the encoder's: MPEG-4, as the dataset's own files are.
        write_video(root / "videos" / f"{on_disk(listed)}.avi", frames, codec="mpeg4")
        (root / "jpegs" / name).mkdir(parents=True)
        for i, frame in enumerate(frames, start=1):
            cv2.imwrite(str(root / "jpegs" / name / f"frame{i:06d}.jpg"), frame[..., ::-1])
        u = np.arange(FRAMES - 1, dtype=np.uint8) * 10
        fields = np.stack([u, 200 - u], -1)[:, None, None] + np.zeros((1, *SIZE, 1), np.uint8)
        write_flow(root / "flow", name, fields)
    (root / "splits").mkdir()
    (root / "splits/classInd.txt").write_text(
        "".join(f"{i} {c}\n" for i, c in enumerate(CLASSES, 1))
    )
    train = "".join(f"{v}.avi {CLASSES.index(v.split('/')[0]) + 1}\n" for v in LISTED[:4])
    (root / "splits/trainlist01.txt").write_text(train)
    (root / "splits/testlist01.txt").write_text("".join(f"{v}.avi\n" for v in LISTED[4:]))
    for folder in ("jpegs", "flow"):
        pack(root / folder)
    return root


def datamodule(
    root: Path, rgb: str = "videos", flow: str = "flow", **changes: Any
) -> VideoDataModule:
    options: dict[str, Any] = {
        "dataset": lambda: read_ucf101(str(root), 1, any_size=True),
        "rgb": rgb if rgb == "videos" else str(root / rgb),
        "flow": flow if flow == "on_the_fly" else str(root / flow),
        "flow_settings": DIS,
        "flow_stack": STACK,
        "frame_stride": (1, 3),
        "short_side": 36,
        "test": VideoTest(5, 2),
    }
    return small_datamodule(**options | changes)


def batches(module: VideoDataModule, epoch: int = 0) -> list[Sample]:
    """All training, validation and test batches."""
    train = module.train_dataloader()
    assert isinstance(train.sampler, EpochSampler)
    train.sampler.set_epoch(epoch)
    return [*train, *module.val_dataloader(), *module.test_dataloader()]


def same(some: list[Sample], others: list[Sample]) -> bool:
    return len(some) == len(others) and all(
        one["video"] == other["video"]
        and all(torch.equal(one[key], other[key]) for key in ("rgb", "flow", "label"))
        for one, other in zip(some, others, strict=True)
    )


RGB, FLOW = ("videos", "jpegs", "jpegs.zip"), ("flow", "flow.zip", "on_the_fly")


@pytest.mark.parametrize("flow", FLOW)
@pytest.mark.parametrize("rgb", RGB)
def test_any_mix(rgb: str, flow: str, root: Path, tmp_path: Path) -> None:
    module = datamodule(root, rgb, flow, videos=VideoReading(cache_dir=str(tmp_path)))
    kinds: dict[str, tuple[type, type]] = {"videos": (VideoFiles, VideoFile)}
    kind, source = kinds.get(rgb, (FrameFolders, FrameImages))
    assert module.rgb is not None
    assert isinstance(module.rgb, kind)
    assert isinstance(module.rgb.open(module.videos.train[0]), source)
    kind, source = {"on_the_fly": (OnTheFlyFlowStore, OnTheFlyFlow)}.get(
        flow, (FlowFolders, FlowImages)
    )
    assert module.flow is not None
    assert isinstance(module.flow, kind)
    assert isinstance(module.flow.open(module.videos.train[0]), source)
    read = batches(module)
    assert sorted(name for batch in read[:2] for name in batch["video"]) == sorted(
        Path(v).name for v in LISTED[:4]
    )
    for batch, (count, size) in zip(read, [(3, (24, 24))] * 3 + [(5, SIZE)], strict=True):
        assert batch["rgb"].shape == (2, 3, count, *size)
        assert batch["flow"].shape == (2, 2 * STACK, count, *size)
        labels = ["Archery" in name for name in batch["video"]]
        assert batch["label"].tolist() == labels


def test_the_same_from_folders_as_from_archives(root: Path) -> None:
    read = [
        batches(datamodule(root, rgb, flow), epoch=2)
        for rgb, flow in [("jpegs", "flow"), ("jpegs.zip", "flow"), ("jpegs.zip", "flow.zip")]
    ]
    assert same(read[0], read[1])
    assert same(read[0], read[2])


def test_nearly_the_same_from_videos_as_from_frames(root: Path) -> None:
    pairs = zip(batches(datamodule(root)), batches(datamodule(root, "jpegs")), strict=True)
    for one, other in pairs:
        assert (one["rgb"].int() - other["rgb"].int()).abs().float().mean() < 4
        assert torch.equal(one["flow"], other["flow"])


@pytest.mark.parametrize(
    ("method", "workers"), [("fork", 1), ("fork", 2), ("spawn", 1), ("forkserver", 1)]
)
def test_any_way_to_start_workers(method: str, workers: int, root: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rgb": "jpegs.zip", "flow": "flow.zip"}
    options["videos"] = VideoReading(cache_dir=str(tmp_path))
    loader = {"num_workers": workers, "multiprocessing_context": method}
    module = datamodule(root, loader=loader, **options)
    alone = list(datamodule(root, **options).train_dataloader())
    assert same(list(module.train_dataloader()), alone)


class TestOnlyWhatIsNeeded:
    def test_motion_needs_no_frames(self, root: Path) -> None:
        module = datamodule(root, rgb="nowhere", modalities=["flow"])
        assert module.rgb is None
        assert module.train_dataloader().dataset[0, 0].keys() == {"flow", "label", "video"}

    def test_appearance_needs_no_flow(self, root: Path) -> None:
        module = datamodule(root, flow="nowhere", modalities=["rgb"])
        assert module.flow is None
        assert module.train_dataloader().dataset[0, 0].keys() == {"rgb", "label", "video"}

    @pytest.mark.parametrize("rgb", RGB)
    def test_motion_on_the_fly_needs_frames(self, rgb: str, root: Path) -> None:
        module = datamodule(root, rgb, "on_the_fly", modalities=["flow"])
        for number in range(4):  # the files' names are not those of the lists
            sample = module.train_dataloader().dataset[number, 0]
            assert sample.keys() == {"flow", "label", "video"}

    def test_flow_that_is_not_there(self, root: Path) -> None:
        with pytest.raises(UserError, match=r"nowhere does not exist: make it.*data\.flow=on_the"):
            datamodule(root, flow="nowhere")

    def test_flow_that_nobody_says_how_to_compute(self, root: Path) -> None:
        with pytest.raises(UserError, match=r"needs data\.flow_settings"):
            datamodule(root, flow="on_the_fly", flow_settings=None)


class TestMissing:
    """A seventh video is listed, and nowhere to be found."""

    @staticmethod
    def listed(root: Path) -> Split:
        split = read_ucf101(str(root), 1, any_size=True)
        absent = Video("absent", root / "videos" / "Archery" / "absent.avi", 1)
        return Split(split.classes, (absent, *split.train), split.test)

    @pytest.mark.parametrize("rgb", RGB)
    @pytest.mark.parametrize("flow", FLOW)
    def test_skipped(self, rgb: str, flow: str, root: Path) -> None:
        listed = self.listed(root)
        found = datamodule(
            root, rgb, flow, dataset=lambda: listed, videos=VideoReading(missing="skip")
        ).videos
        assert [video.name for video in found.train] == [Path(v).name for v in LISTED[:4]]
        assert len(found.test) == 2

    @pytest.mark.parametrize("modality", ["rgb", "flow"])
    @pytest.mark.parametrize(("rgb", "flow"), list(zip(RGB, FLOW, strict=True)))
    def test_is_an_error(self, rgb: str, flow: str, modality: str, root: Path) -> None:
        listed = self.listed(root)
        changes: dict[str, Any] = {"dataset": lambda: listed, "modalities": [modality]}
        with pytest.raises(UserError, match=r"1 of 5 listed videos are missing.*first is .*absent"):
            datamodule(root, rgb, flow, **changes)

    def test_all_of_them(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="4 of 4 listed videos are missing"):
            datamodule(root, flow=str(tmp_path / "empty"), videos=VideoReading(missing="skip"))

    def test_in_one_library_only(self, root: Path, tmp_path: Path) -> None:
        name = Path(on_disk(LISTED[1])).name
        for component in "uv":
            (tmp_path / component).mkdir()
            for folder in (root / "flow" / component).iterdir():
                if folder.name != name:
                    (tmp_path / component / folder.name).symlink_to(folder)
        found = datamodule(
            root, flow=str(tmp_path), videos=VideoReading(missing="skip")
        ).videos.train
        assert [v.name for v in found] == [Path(v).name for v in LISTED[:4] if v != LISTED[1]]
        assert all(video.path.is_file() for video in found)

    def test_any_other_way_is_refused(self) -> None:
        with pytest.raises(
            UserError, match=r"data\.videos\.missing=ignore: needs error or skip or "
        ):
            VideoReading(missing="ignore")


def test_files_are_found_whatever_their_case(root: Path) -> None:
    module = datamodule(root)
    videos = [*module.videos.train, *module.videos.test]
    assert [video.path.relative_to(root / "videos") for video in videos] == [
        Path(f"{on_disk(listed)}.avi") for listed in LISTED
    ]


@pytest.mark.parametrize("place", ["flow", "flow.zip", "."])
def test_settings_beside_the_flow(place: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "flow").symlink_to(root / "flow")
    (tmp_path / "flow.zip").symlink_to(root / "flow.zip")
    settings = FlowSettings("dis", {"preset": "fast"}, short_side=128, bound=8.0)
    module = datamodule(root, flow=str(tmp_path / place))
    assert isinstance(module.flow, FlowFolders)
    assert module.flow_made_by == FlowSettings()
    folder = root / "flow" if place == "flow" else tmp_path
    settings.save(folder)
    try:
        module = datamodule(root, flow=str(tmp_path / place))
        assert isinstance(module.flow, FlowFolders)
        assert module.flow_made_by == settings
    finally:
        (folder / "flow.json").unlink()
