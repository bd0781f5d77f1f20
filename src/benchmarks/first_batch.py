"""How long a large dataset takes to its first batch, with and without an index that is kept.

The dataset has UCF101's lists and as many videos; they are links to a few clips, and so is their
flow. An index says what every folder of flow holds, so that those unchanged are not listed again.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from src.benchmarks.harness import Contender, Measurement, Timed, measure
from src.benchmarks.material import Material
from src.data.splits import UCF101, read_ucf101
from src.experiment.build import build_datamodule
from src.experiment.config import StageConfig

TRAINED_ON = 9537 / 13320  # the share of UCF101's videos in the train list of split 1
FLOW = "tvl1_flow"


def make_dataset(root: Path, material: Material, videos: int) -> None:
    """Make UCF101's folders and lists for some number of videos.

    Args:
        root: the dataset's folder, which may be there.
        material: the clips that stand for all videos.
        videos: how many.
    """
    lists = root / "splits"
    lists.mkdir(parents=True)
    classes = enumerate(UCF101, start=1)
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in classes))
    keys = [
        f"{name}/v_{name}_g{number // len(UCF101):03d}_c01.avi"
        for number in range(videos)
        for name in [UCF101[number % len(UCF101)]]
    ]
    train = round(TRAINED_ON * videos)
    for part, some in (("train", keys[:train]), ("test", keys[train:])):
        (lists / f"{part}list01.txt").write_text("".join(f"{key}\n" for key in some))
    for folder in (*(f"videos/{name}" for name in UCF101), f"{FLOW}/u", f"{FLOW}/v"):
        (root / folder).mkdir(parents=True)
    split, clips = read_ucf101(str(root), 1), list(material.frames)
    for number, video in enumerate((*split.train, *split.test)):
        clip = clips[number % len(clips)]
        os.link(material.video("avi", clip), video.path)
        for component in "uv":
            (root / FLOW / component / video.name).symlink_to(material.flow / component / clip)


def first_batch(config: StageConfig) -> Timed:
    """Find a stage's videos and read the first batch of training; workers end untimed."""
    start = time.perf_counter()
    data = build_datamodule(config)
    data.setup()
    batches = iter(data.train_dataloader())
    next(batches)
    return Timed(1, time.perf_counter() - start)


def first_batches(config: StageConfig, index: Path, videos: int, rounds: int) -> Measurement:
    """First batches per second of a stage whose index of folders is kept, against listing them.

    Args:
        config: of the stage, on the dataset that `make_dataset` has made.
        index: a folder to keep the index of folders in.
        videos: how many there are.
        rounds: of the measurement.
    """

    def contender(name: str, cache_dir: str | None) -> Contender:
        videos = config["data"]["videos"] | {"cache_dir": cache_dir}
        return Contender(
            name, _first_batch_of(config | {"data": config["data"] | {"videos": videos}})
        )

    measurement = measure(
        f"first batch of {videos} videos: RGB from video files, flow from a folder for each",
        "first batches",
        contender("folders listed", None),
        [contender("index of folders kept", str(index))],
        rounds,
    )
    return in_seconds(measurement)


def _first_batch_of(config: StageConfig) -> Callable[[], Timed]:
    return lambda: first_batch(config)


def in_seconds(measurement: Measurement) -> Measurement:
    """The same, with the seconds that each took told as well."""
    seconds = [f"{row.name} {1 / row.rate:.2f}" for row in measurement.rows]
    return replace(measurement, remarks=[f"seconds: {', '.join(seconds)}"])


def main(arguments: Sequence[str]) -> None:
    """The first batch of the stage whose config is in a JSON file, in a process of its own."""
    first_batch(json.loads(Path(arguments[0]).read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
