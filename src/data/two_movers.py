"""The embedded synthetic dataset as files: its clips are drawn by `two_movers_clips`.

<root>/videos/<class>/<class>_000123.mp4     64 x 64, 32 frames, 25 fps
<root>/flow/{u,v}/<class>_000123/frame000001.jpg
<root>/train.csv, test.csv                   video,class
<root>/two_movers.json                       what it was made from

It is made in a hidden folder beside, which takes the name of <root> when it is complete.
"""

import json
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track

from src.data.splits import NoSuchSplit
from src.data.two_movers_clips import CLASSES, FPS, SIZE, VERSION, make_clip
from src.data.videos import Split, Video
from src.media.video_writer import VideoWriter
from src.utils.errors import UserError
from src.utils.files import exclusive_lock
from src.utils.processes import usable_cores, worker_pool
from src.utils.values import NULL, check_values, integer

if TYPE_CHECKING:
    from src.flow.settings import FlowSettings

RECIPE = "two_movers.json"


@dataclass(frozen=True)
class _Job:
    """A video to make, and all that its content depends on."""

    video: Video
    seed: tuple[int, int, int]  # the dataset's seed, 0 for train or 1 for test, place in that part


def read_two_movers(
    root: str,
    num_train: int,
    num_test: int,
    seed: int,
    split: int = 1,
    workers: int | None = None,
    make: bool = True,
) -> Split:
    """Read the dataset in the folder `root`, made first unless it is there.

    An interrupted making is continued. Labels take turns, so that classes are balanced.

    Args:
        root: the dataset's own folder: a complete one, an empty one or a new one.
        num_train, num_test: clips to train and to test on.
        seed: of everything that is drawn.
        split: 1, there is no other.
        workers: processes that make it; None is one per core, fewer for a few clips.
        make: false refuses to make it: a checkpoint's config is not to choose where.

    Raises:
        UserError: a wrong argument, a folder made from other arguments, or one not to write in.
    """
    if split != 1:
        raise NoSuchSplit(f"data.split={split} does not exist: two_movers has split 1 only")
    needs = {**dict.fromkeys(("num_train", "num_test"), integer(1, 10**6)), "seed": integer(0)}
    check_values(locals(), needs | {"workers": integer(1) | NULL}, "two_movers: ")
    recipe = {"version": VERSION, "num_train": num_train, "num_test": num_test, "seed": seed}
    folder = Path(root)
    try:
        if not _is_complete(folder, recipe):
            if not make:
                raise UserError(
                    f"two_movers is not in {folder}: python -m src.train makes it there or where "
                    "data.dataset.root=... says"
                )
            _make(folder, recipe, workers)
    except OSError as error:
        raise UserError(f"two_movers cannot be made in {root}: {error}") from error
    train, test = _jobs(folder, recipe)
    return Split(CLASSES, tuple(job.video for job in train), tuple(job.video for job in test))


def flow_settings() -> "FlowSettings":
    """The settings of the dataset's flow: a fast algorithm, at the videos' own size."""
    # Imported here, because this brings torch along, which the processes that draw can do without.
    from src.flow.settings import FlowSettings

    parameters = {"preset": "medium", "finest_scale": 0}
    return FlowSettings(algorithm="dis", parameters=parameters, short_side=SIZE)


def _jobs(folder: Path, recipe: dict[str, int]) -> tuple[list[_Job], list[_Job]]:
    """The videos to train on and those to test on, with `folder` as the dataset's own."""
    jobs: tuple[list[_Job], list[_Job]] = ([], [])
    for part, count in enumerate((recipe["num_train"], recipe["num_test"])):
        for index in range(count):
            label = index % len(CLASSES)
            name = f"{CLASSES[label]}_{part * recipe['num_train'] + index:06d}"
            path = folder / "videos" / CLASSES[label] / f"{name}.mp4"
            jobs[part].append(_Job(Video(name, path, label), (recipe["seed"], part, index)))
    return jobs


def _is_complete(folder: Path, recipe: dict[str, int]) -> bool:
    """Whether the dataset is there; UserError if what is there is something else."""
    hint = f"give another folder as data.dataset.root=... or delete {folder}"
    # In this order: another process may complete it at this moment.
    empty = not folder.is_dir() or not any(folder.iterdir())
    file = folder / RECIPE
    try:
        made = dict(json.loads(file.read_text()))
    except FileNotFoundError:
        if empty:
            return False
        raise UserError(
            f"{folder} has files of unknown origin, as {RECIPE} is missing: give an empty or a new "
            "folder as data.dataset.root=..."
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is not readable ({error}): {hint}") from error
    names = [name for name in recipe if made.get(name) != recipe[name]]
    if names:
        existing = ", ".join(f"{name}={made.get(name)}" for name in names)
        asked = ", ".join(f"{name}={recipe[name]}" for name in names)
        raise UserError(f"two_movers in {folder} is made with {existing}, not {asked}: {hint}")
    return True


def _make(folder: Path, recipe: dict[str, int], workers: int | None) -> None:
    from src.extraction.extract import extract_flow  # here for the reason given in `flow_settings`

    place = folder.resolve()  # a link stays one
    if place.is_mount():
        raise UserError(
            f"{folder} is a mount point, which cannot be replaced when two_movers is complete: "
            "give a folder in it as data.dataset.root=..."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    # A sweep may start several at once.
    with exclusive_lock(place.with_name(f".{place.name}.two_movers.lock"), wait=True):
        if _is_complete(folder, recipe):
            return
        # An interrupted making of the same recipe left its own: what is complete in it is used.
        made_from = "-".join(map(str, recipe.values()))
        draft = place.with_name(f".{place.name}.two_movers-{made_from}.part")
        train, test = _jobs(draft, recipe)
        jobs = train + test
        workers = workers or max(1, min(usable_cores(), len(jobs) // 50))
        _make_videos([job for job in jobs if not job.video.path.is_file()], workers)
        videos = [job.video.path for job in jobs]
        failed = extract_flow(videos, draft / "flow", flow_settings(), workers).failed
        for name, reason in failed.items():
            raise UserError(f"two_movers: no flow of {name} ({reason}): delete {draft}")
        (draft / "train.csv").write_text(_table(train))
        (draft / "test.csv").write_text(_table(test))
        (draft / RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")
        draft.rename(place)  # refused by the system if there are files by now


def _table(jobs: list[_Job]) -> str:
    rows = [(CLASSES[job.video.label], job.video.path.name) for job in jobs]
    return "video,class\n" + "".join(f"videos/{name}/{file},{name}\n" for name, file in rows)


def _make_videos(jobs: Sequence[_Job], workers: int) -> None:
    if not jobs:
        return
    console = Console(stderr=True, force_jupyter=False)  # a notebook would need widgets
    try:
        with worker_pool(workers, __name__) if workers > 1 else nullcontext() as pool:
            made = pool.map(_make_video, jobs, chunksize=4) if pool else map(_make_video, jobs)
            for _ in track(made, "Drawing two_movers", len(jobs), console=console):
                pass
    except BrokenProcessPool as error:
        raise UserError(
            "a process that draws two_movers died: rerun the same command for the rest"
        ) from error


def _make_video(job: _Job) -> None:
    clip = make_clip(np.random.default_rng(job.seed), job.video.label)
    path = job.video.path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")  # of this name, so that the next making reuses it
    # Every frame is a key frame: one predicted from others could show traces of the motion.
    writer = VideoWriter(part, (SIZE, SIZE), FPS, crf=12, key_frames_only=True)
    with closing(writer):
        for frame in clip.frames:
            writer.write(frame)
    part.replace(path)
