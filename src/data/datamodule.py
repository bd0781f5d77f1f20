"""The LightningDataModule: train clips, validation clips and full test videos of one split."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader

from src.data.dataset import (
    MODALITIES,
    Sample,
    TestView,
    TrainView,
    ValView,
    VideoDataset,
    View,
)
from src.data.faults import COUNT_AS_WRONG, SkipBrokenVideos, VideoErrors
from src.data.loading import EpochSampler, VideoLoader, collate
from src.data.sampling import STRIDED_SAMPLER, ClipSampler
from src.data.splits import with_validation
from src.data.stores import ON_THE_FLY, FlowStore, FrameStore, open_flow, open_rgb
from src.data.transforms import ColorTransform, CropPolicy, check_colors
from src.data.verification.manifest import Manifest, Modality
from src.data.videos import PARTS, Split, Video, Videos
from src.flow.after_transfer import FRAMES, Batch, FlowAfterTransfer
from src.flow.settings import FlowSettings
from src.media.sources import LONGEST_SIDE
from src.media.video_file import DECODERS
from src.utils.errors import UserError
from src.utils.processes import usable_cores
from src.utils.values import NULL, PATH, SWITCH, Need, check_values, integer, number, one_of

MOST_FRAMES = 1000  # of a clip or of a test
_NEEDS: dict[str, Need] = {
    "split": integer(1),
    "num_classes": integer(1),
    "modalities": Need("a list of rgb, flow or both", lambda v: v and not set(v) - set(MODALITIES)),
    "frames": integer(1, MOST_FRAMES),
    "flow_stack": Need(
        "an even number of flow fields from 2", lambda v: integer(2).fits(v) and not v % 2
    ),
    "frame_stride": Need(
        "two integers from 1, the smallest and the largest",
        lambda v: len(v) == 2 and all(map(integer(1).fits, v)) and v[0] <= v[1],
    ),
    "short_side": integer(1, LONGEST_SIDE),
    "crop_size": integer(1, LONGEST_SIDE),
    "hflip": SWITCH,
    "batch_size": integer(1),
    "seed": integer(0, 2**32 - 1),
    "val_fraction": number("a fraction above 0, below 1", lambda part: 0 < part < 1) | NULL,
    "overfit_batches": integer(1) | NULL,
}
# Of the call that returns the split.
_DATASET_NEEDS = {"root": PATH, "num_train": integer(1), "num_test": integer(1), "seed": integer(0)}
_LOADER_NEEDS = {
    "num_workers": integer(0) | NULL,
    "prefetch_factor": integer(1),
    "timeout": number("seconds from 0", lambda seconds: seconds >= 0),
    "multiprocessing_context": one_of(*multiprocessing.get_all_start_methods()) | NULL,
    "pin_memory": SWITCH | NULL,
}


@dataclass(frozen=True)
class VideoTest:
    """What a test sees of videos: evenly spaced frames of each, of the part "test" or "val"."""

    frames: int
    batch_size: int = 1
    part: str = "test"

    def __post_init__(self) -> None:
        needs = {
            "frames": integer(1, MOST_FRAMES),
            "batch_size": integer(1),
            "part": one_of("test", "val"),
        }
        check_values(vars(self), needs, "data.test.")


@dataclass(frozen=True)
class VideoReading:
    """How videos are read, and what is done about those that cannot be.

    Args:
        decoder: of video files: auto, decord or pyav.
        cache_dir: where the indices of folders and archives are kept; None keeps none.
        manifest: what `src.verify_data` has written: which videos cannot be used, and why; None, no
            such file or one for other places is none.
        missing: what to do with videos that are not there. "error" refuses lists that name some;
            "skip" leaves them out of all parts; "count_as_wrong" out of training, and counts those
            of the tested part as wrong, as well as those that turn out unreadable in the test.
        max_unreadable_fraction: of the training list, 0..1; with more the run stops.
    """

    decoder: str = "auto"
    cache_dir: str | None = None
    manifest: str | None = None
    missing: str = "error"
    max_unreadable_fraction: float = 0.01

    def __post_init__(self) -> None:
        needs = {
            "decoder": one_of(*DECODERS),
            "cache_dir": PATH | NULL,
            "manifest": PATH | NULL,
            "missing": one_of("error", "skip", COUNT_AS_WRONG),
            "max_unreadable_fraction": number("a fraction, from 0 to 1", lambda f: 0 <= f <= 1),
        }
        check_values(vars(self), needs, "data.videos.")


class VideoDataModule(pl.LightningDataModule):
    """Clips of a dataset's split as uint8 batches.

    A batch holds "rgb" (B, 3, T, H, W) and/or "flow" (B, 2L, T, H, W), "label" (B,) and "video"
    (names). `errors` tells which videos could not be read so far, or were not there.

    Args:
        dataset: a call that returns the split, making or checking the data where that is needed.
        rgb: where frames lie: "videos" for the dataset's video files, or a folder or zip archive
            of JPEG frames.
        flow: where flow lies: a folder or zip archive of JPEG images, or "on_the_fly".
        split, num_classes: the split's number, for checkpoints, and what it must have.
        modalities: "rgb", "flow" or both.
        frames, flow_stack: of a training clip (T), and flow fields around each (L).
        short_side: smaller side that crops are chosen at and test frames are resized to.
        crop, crop_size, hflip: how a training clip is cut, its side, whether it may be mirrored.
        test: what a test sees.
        batch_size: clips per step and device.
        seed: of all random choices.
        frame_stride: smallest and largest tau, frames from one of a clip to the next.
        sampler: which frames make a clip for training and validation.
        augment: what is done to the colors of training clips, a transform of torchvision.
        flow_settings: how flow is computed on the fly.
        loader: arguments of torch's DataLoader: num_workers per device (None takes the cores that
            there are, up to 8), prefetch_factor, multiprocessing_context, pin_memory (None where
            there is a GPU), and timeout, the seconds to wait for a batch before the videos under
            way are named; 0 waits on. A video that takes half of it cannot be read, see
            `SkipBrokenVideos`.
        videos: how they are read.
        val_fraction: of the training list, validated on in its place; None takes the test list.
        overfit_batches: how many batches of every device are trained on over and over, the same
            clips each time; None trains on the full list.
    """

    def __init__(
        self,
        dataset: Callable[[], Split],
        rgb: str,
        flow: str,
        split: int,
        num_classes: int,
        modalities: Sequence[str],
        frames: int,
        flow_stack: int,
        short_side: int,
        crop: CropPolicy,
        crop_size: int,
        hflip: bool,
        test: VideoTest,
        batch_size: int,
        seed: int,
        frame_stride: tuple[int, int] = (1, 1),
        sampler: ClipSampler = STRIDED_SAMPLER,
        augment: ColorTransform | None = None,
        flow_settings: FlowSettings | None = None,
        loader: Mapping[str, Any] | None = None,
        videos: VideoReading | None = None,
        val_fraction: float | None = None,
        overfit_batches: int | None = None,
    ) -> None:
        check_values(locals(), _NEEDS, "data.")
        read = {"rgb" if flow == ON_THE_FLY else modality for modality in modalities}
        check_values(locals(), dict.fromkeys(read, PATH), "data.")
        check_values(getattr(dataset, "keywords", {}), _DATASET_NEEDS, "data.dataset.")
        super().__init__()
        unknown = set(loader or {}) - set(_LOADER_NEEDS)
        if unknown:
            raise UserError(
                f"data.loader.{min(unknown)}: not among those of DataLoader's arguments that can "
                f"be chosen: {', '.join(_LOADER_NEEDS)}"
            )
        check_values(loader or {}, _LOADER_NEEDS, "data.loader.")
        if val_fraction is None and test.part == "val":
            raise UserError("data.test.part=val: there is no such part without data.val_fraction")
        self.loader, self.reading = dict(loader or {}), videos or VideoReading()
        self.val_fraction, self.test_part = val_fraction, test.part
        self.val_part = "test" if val_fraction is None else "val"  # that is validated on
        self.dataset, self.rgb_place, self.flow_place = dataset, rgb, flow
        self.flow_settings, self.overfit_batches = flow_settings, overfit_batches
        self.errors = VideoErrors()
        self._known: Manifest | None = None
        self.split, self.num_classes, self.modalities = split, num_classes, tuple(modalities)
        self.flow_stack, self.seed, self.frames = flow_stack, seed, frames
        self.batch_size, self.test_batch_size = batch_size, test.batch_size
        self.crop_size = crop_size
        if augment:
            check_colors(augment)
        self.augment = augment
        self.train_view = TrainView(
            frames, frame_stride, crop, crop_size, short_side, hflip, sampler
        )
        self.val_view = ValView(frames, frame_stride, crop_size, short_side, sampler)
        self.test_view = TestView(test.frames, short_side)
        self.listed = self.videos = Split((), (), ())  # all, and those that are there
        self.rgb: FrameStore | None = None
        self.flow: FlowStore | None = None

    def prepare_data(self) -> None:
        """Make or check the data, once per machine."""
        self.dataset()

    def setup(self, stage: str | None = None) -> None:
        """Read the lists, and find their videos."""
        if self.videos.classes:
            return
        listed = self.dataset()
        if self.val_fraction is not None:
            listed = with_validation(listed, self.val_fraction)
            if not listed.val:
                raise UserError(
                    f"data.val_fraction={self.val_fraction}: leaves no video to validate on, as "
                    "groups of videos stay together: give a larger fraction"
                )
        if len(listed.classes) != self.num_classes:
            raise UserError(
                f"data.num_classes={self.num_classes}, but the lists name "
                f"{len(listed.classes)} classes"
            )
        places = {"rgb": self.rgb_place, "flow": self.flow_place}
        reads = {self._reads(modality) for modality in self.modalities}
        self._known = Manifest.fitting(
            self.reading.manifest,
            {modality: places[modality] for modality in reads},
            chain(listed.train, listed.val, listed.test),
        )
        frames, cache_dir = None, self.reading.cache_dir
        if "rgb" in reads:
            frames = open_rgb(self.rgb_place, self.reading.decoder, cache_dir)
        self.rgb = frames if "rgb" in self.modalities else None
        if "flow" in self.modalities:
            if self.flow_settings:
                self._flow_after_transfer = FlowAfterTransfer(self.flow_settings)
            self.flow = open_flow(self.flow_place, frames, self.flow_settings, cache_dir)
        usable = {part: self._find(part, getattr(listed, part)) for part in PARTS}
        self.listed, self.videos = listed, Split(listed.classes, **usable)

    def _reads(self, modality: str) -> Modality:
        """Where a modality's images come from."""
        return "rgb" if modality == "rgb" or self.flow_place == ON_THE_FLY else "flow"

    def _find(self, part: str, videos: Videos) -> Videos:
        """The videos that can be read from all stores in use; of others `errors` has why not."""
        unusable, renamed = set[int](), dict[int, str]()
        for modality, store in (("rgb", self.rgb), ("flow", self.flow)):
            if store is None:
                continue
            reads, broken = self._reads(modality), dict[str, str]()
            for place, (path, stored) in enumerate(
                zip(videos.paths, store.find(videos), strict=True)
            ):
                known = self._known.reason(videos[place], reads) if self._known else None
                if stored is None or known:
                    broken[videos.names[place]] = known or f"missing in {store.place}"
                    unusable.add(place)
                elif stored != path:  # the file's name has its case on disk
                    renamed[place] = stored
            if broken and (self.reading.missing == "error" or len(broken) == len(videos)):
                name, reason = next(iter(broken.items()))
                raise UserError(
                    f"{len(broken)} of {len(videos)} listed videos are missing or broken in "
                    f"{store.place}, the first is {name} ({reason}): python -m src.verify_data "
                    "lists them, data/README.md shows how folders look; data.videos.missing=skip "
                    "skips them, data.videos.missing=count_as_wrong counts those of the "
                    "tested list as wrong"
                )
            self.errors.missing[part] = broken | self.errors.missing[part]
        self.errors.listed[part] = len(videos)
        if not (unusable or renamed):
            return videos
        usable = [place for place in range(len(videos)) if place not in unusable]
        return videos.take(usable, renamed)

    @property
    def flow_made_by(self) -> FlowSettings:
        """How the flow was made; without a flow.json it is taken for the released TV-L1."""
        if self.flow_place == ON_THE_FLY:
            return self.flow_settings or FlowSettings()
        return FlowSettings.load(Path(self.flow_place)) or FlowSettings()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Compute the flow on the device, if that is where it is computed."""
        return self._flow_after_transfer(batch) if FRAMES in batch else batch

    def ready(self, batch: Batch, device: str | torch.device) -> Batch:
        """A loader's batch as a network gets it from a trainer: moved, and with its flow."""
        return self.on_after_batch_transfer(move_data_to_device(batch, device), 0)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Every training video once, in random order, one random clip of each."""
        loader = self._loader("train", self.videos.train, self.train_view, self.batch_size)
        if self.trainer:
            # Lightning tells the epoch only after workers have begun to read: late for a run that
            # resumes from a checkpoint.
            loader.sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return loader

    def val_dataloader(self) -> DataLoader[Sample]:
        """The central clip of every video of the validation part; of the test list without one."""
        videos: Sequence[Video] = getattr(self.videos, self.val_part)
        return self._loader("val", videos, self.val_view, self.batch_size)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Every video of the tested part, in full."""
        return self._loader("test", self.tested, self.test_view, self.test_batch_size)

    @property
    def tested(self) -> Videos:
        """The videos of `test_part`."""
        videos: Videos = getattr(self.videos, self.test_part)
        return videos

    def test_video(self, name: str, device: str | torch.device = "cpu") -> Sample:
        """One video of the tested part as the test sees it, without the batch's dimension.

        Flow that is computed on a device is computed on this one.

        Raises:
            UserError: there is no such video. Whatever reading raises is raised as it is.
        """
        videos = self.tested
        named = videos.take([place for place, other in enumerate(videos.names) if other == name])
        if not named:
            raise UserError(f"{name} is not on the {self.test_part} list")
        # Nothing in it is drawn, so that it does not depend on the place in the list.
        dataset = VideoDataset(
            named, self.rgb, self.flow, self.test_view, self.flow_stack, self.seed
        )
        batch = self.ready(collate([dataset[0, 0]]), device)
        return {key: values[0] for key, values in batch.items()}

    def _loader(
        self, phase: str, videos: Sequence[Video], view: View, batch_size: int
    ) -> DataLoader[Sample]:
        training = phase == "train"
        repeat = self.overfit_batches * batch_size if training and self.overfit_batches else None
        sampler = EpochSampler(len(videos), self.seed, shuffle=training, repeat=repeat)
        if not training and len(videos) < sampler.ranks:  # Lightning skips a rank without batches
            raise UserError(
                f"{len(videos)} videos to test on are not one for each of {sampler.ranks} devices: "
                "train and test on fewer"
            )
        augment = self.augment if training else None
        dataset = VideoDataset(
            videos, self.rgb, self.flow, view, self.flow_stack, self.seed, augment
        )
        options = self._loader_options()
        workers, time_limit = options["num_workers"], self.loader.get("timeout", 0) / 2
        return VideoLoader(
            SkipBrokenVideos(dataset, workers, training, self.seed, time_limit),
            self.errors.unreadable[phase],
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            **options,
        )

    def _loader_options(self) -> dict[str, Any]:
        """Arguments of the DataLoader that have to do with its worker processes."""
        options = {"num_workers": None, "pin_memory": None} | self.loader
        if options["num_workers"] is None:
            ranks_here = self.trainer.num_devices if self.trainer else 1
            options["num_workers"] = min(8, max(1, usable_cores() // ranks_here))
        if options["pin_memory"] is None:
            options["pin_memory"] = torch.cuda.is_available()
        if not options["num_workers"]:  # torch refuses the others
            return {key: options[key] for key in ("num_workers", "pin_memory")}
        return options | {"persistent_workers": True}
