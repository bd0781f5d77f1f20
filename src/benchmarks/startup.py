"""How long a command takes before it does anything, and a large dataset to its first batch.

The dataset has UCF101's lists and as many videos, which are links to a few clips, and so is their
flow.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from src.benchmarks.fixtures import Fixtures
from src.benchmarks.harness import Candidate, Command, Measurement, measure
from src.data.datamodule import VideoDataModule
from src.data.splits import UCF101, read_ucf101
from src.experiment.build import build_datamodule
from src.experiment.compose import compose_config
from src.experiment.config import StageConfig, stage_config

TRAIN_FRACTION = 9537 / 13320  # of UCF101's videos in the train list of split 1
FLOW = "tvl1_flow"


def startup(fixtures: Fixtures, videos: int, rounds: int) -> Measurement:
    """Starts of our commands and a first batch, each a process, against Python with torch.

    The fixtures stand for all videos of the dataset that is made of them.
    """
    root = fixtures.root / "ucf101"
    make_dataset(root, fixtures, videos)
    dataset = (f"data.dataset.root={root}", "data.dataset.any_size=true")
    overrides = ("experiment=st_resnet_ucf101", *dataset, "data.videos.cache_dir=null")
    config = stage_config(compose_config("train", *overrides), "joint")
    file = fixtures.root / "config.json"
    file.write_text(json.dumps(config))
    experiment = "experiment=st_resnet_hmdb51"
    first = Command(["-m", "src.benchmarks.startup", str(file)])
    candidates = [
        Candidate("import torch", Command(["-c", "import torch"])),
        Candidate("import pytorch_lightning", Command(["-c", "import pytorch_lightning"])),
        Candidate("train --help", Command(["-m", "src.train", "--help"])),
        Candidate("train --cfg job", Command(["-m", "src.train", experiment, "--cfg", "job"])),
        Candidate("train no_key=1", Command(["-m", "src.train", "no_key=1"], status=1)),
        Candidate("extract_flow --help", Command(["-m", "src.extract_flow", "--help"])),
        Candidate("first batch", first, f"of {videos} videos"),
    ]
    measured = measure("startup", "starts", candidates, rounds)
    seconds = [f"{row.name} {1 / row.rate:.2f}" for row in measured.rows]
    return replace(measured, notes=[f"seconds: {', '.join(seconds)}"])


def first_batch(config: StageConfig) -> VideoDataModule:
    """Find a stage's videos and read the first batch of training."""
    data = build_datamodule(config)
    data.setup()
    next(iter(data.train_dataloader()))
    return data


def make_dataset(root: Path, fixtures: Fixtures, videos: int) -> None:
    """Make UCF101's folders and lists for so many videos, which are links to the fixtures."""
    lists = root / "splits"
    lists.mkdir(parents=True)
    classes = enumerate(UCF101, start=1)
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in classes))
    names = [UCF101[number % len(UCF101)] for number in range(videos)]
    keys = [
        f"{name}/v_{name}_g{number // len(UCF101):03d}_c01.avi" for number, name in enumerate(names)
    ]
    train = round(TRAIN_FRACTION * videos)
    for part, some in (("train", keys[:train]), ("test", keys[train:])):
        (lists / f"{part}list01.txt").write_text("".join(f"{key}\n" for key in some))
    for folder in (*(f"videos/{name}" for name in UCF101), f"{FLOW}/u", f"{FLOW}/v"):
        (root / folder).mkdir(parents=True)
    split, clips = read_ucf101(str(root), 1, any_size=True), list(fixtures.frames)
    for number, video in enumerate((*split.train, *split.test)):
        clip = clips[number % len(clips)]
        os.link(fixtures.video("avi", clip), video.path)
        for component in "uv":
            (root / FLOW / component / video.name).symlink_to(fixtures.flow / component / clip)


if __name__ == "__main__":
    first_batch(json.loads(Path(sys.argv[1]).read_text()))
