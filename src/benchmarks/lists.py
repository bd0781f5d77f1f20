"""What a long list of videos costs: a short training of 240,000 videos beside one of 200.

The videos are links to one clip in as many class folders as Kinetics has.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

from src.benchmarks.fixtures import Fixtures
from src.benchmarks.harness import Candidate, Command, Measurement, measure
from src.experiment.build import build_datamodule
from src.experiment.compose import compose_config
from src.experiment.config import StageConfig, stage_config

FEW = 200  # videos of the baseline
CLASSES = 400  # of the long list
BATCHES = 4  # that workers load before their memory is looked at


def lists(fixtures: Fixtures, videos: int, rounds: int) -> Measurement:
    """Two steps and two tests of a list, from the command to its end, against one of 200 videos.

    Notes have the seconds, the memory of the largest process, and what a worker has of its own.
    """
    candidates, commands = list[Candidate](), dict[str, Command]()
    private: list[str] = []
    for count, classes in ((FEW, FEW // 2), (videos, min(CLASSES, videos // 2))):
        root, name = fixtures.root / f"list_{count}", f"{count} videos"
        make_list(root, fixtures, count, classes)
        overrides = (
            *("experiment=appearance_folder", "recipe=small", "logger=none", "num_sample_videos=0"),
            *(f"data.dataset.root={root}", f"data.dataset.lists={root / 'list.csv'}"),
            *(f"paths.output_dir={root / 'outputs'}", f"data.videos.cache_dir={root / 'index'}"),
        )
        commands[name] = Command(["-m", "src.train", "debug=steps", *overrides])
        candidates.append(Candidate(name, commands[name], f"in {classes} classes"))
        config = root / "config.json"
        config.write_text(
            json.dumps(stage_config(compose_config("train", *overrides), "appearance"))
        )
        of_workers = [sys.executable, "-m", "src.benchmarks.lists", str(config)]
        private.append(f"{name} {subprocess.check_output(of_workers, text=True).strip()}")
    # Warm: the runs for the workers' memory have read everything once.
    measured = measure("lists", "runs", candidates, rounds, warm=True)
    seconds = [f"{row.name} {1 / row.rate:.1f}" for row in measured.rows]
    largest = [f"{name} {median(run.peaks):.0f}" for name, run in commands.items()]
    notes = [
        f"seconds: {', '.join(seconds)}",
        f"MiB of the largest process: {', '.join(largest)}",
        f"MiB that a worker shares with no other: {', '.join(private)}",
    ]
    return replace(measured, notes=notes)


def make_list(root: Path, fixtures: Fixtures, videos: int, classes: int) -> None:
    """Make so many videos in class folders, and their list; every fourth is a test video."""
    clip = fixtures.video("avi", next(iter(fixtures.frames))).read_bytes()
    rows = ["path,class,split"]
    for label in range(classes):
        name = f"class_{label:03d}"
        folder = root / name
        folder.mkdir(parents=True)
        paths = [folder / f"video_{number:06d}.avi" for number in range(label, videos, classes)]
        paths[0].write_bytes(clip)  # a copy for each class: a file has at most 65,000 links
        for number, path in enumerate(paths):
            if number:
                os.link(paths[0], path)
            rows.append(f"{name}/{path.name},{name},{'test' if number % 4 == 1 else 'train'}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")


def memory_of_workers(config: StageConfig) -> float:
    """Load some training batches, and return the mean MiB that workers share with no process.

    Raises:
        OSError: this system does not tell (it is no Linux).
    """
    data = build_datamodule(config)
    data.setup()
    batches = iter(data.train_dataloader())
    for _ in range(BATCHES):
        next(batches)
    workers = [worker.pid for worker in batches._workers]  # type: ignore[attr-defined]
    return sum(map(_private, workers)) / len(workers)


def _private(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    print(f"{memory_of_workers(json.loads(Path(sys.argv[1]).read_text())):.1f}")
