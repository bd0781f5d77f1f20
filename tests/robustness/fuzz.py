"""Every reader on damaged files: in a process of its own, under a memory limit, by a seed.

Each input ends in a result or in a `UserError`: no other error, no file but in the output folder.
"""

import json
import os
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from src.data.video_list import read_video_list
from src.evaluation.evaluate import load_module
from src.evaluation.samples import load_samples
from src.evaluation.scores import VideoScores, video_accuracies
from src.importing.checkpoint import import_model
from src.media.frames_in_order import read_in_order
from src.media.images import FrameImages, encode_jpeg, open_images
from src.media.video_file import VideoFile
from src.reporting.collect import collect
from src.reporting.details import read_curves
from src.reporting.groups import group_runs
from src.utils.errors import UserError
from tests.builders import random_checkpoint, write_stage, write_video
from tests.importing.released_mat import base_stream

MEMORY = 3 * 2**30  # bytes that a process may take beside what it has when it begins
SLOW = 20.0  # seconds for a single input
WORDS = (b"nan", b"inf", b"1e999", b"-1", b"\x1b[2J", b"=1+1", b"\0", b'"', b"../..", b"&a [*a]")
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


@dataclass(frozen=True)
class Reader:
    """How a kind of input is made, a file or a folder, and how it is read."""

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A few of: bytes flipped, a number or a word written over, a part left out or there twice."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(len(data) + 1))
        length = int(min(rng.geometric(0.02), len(data) - at))
        match rng.integers(6):
            case 0:
                for place in rng.integers(len(data), size=8) if data else ():
                    data[place] = int(rng.integers(256))
            case 1:
                number, size = int(rng.choice(NUMBERS)), int(rng.choice([2, 4, 8]))
                order = "little" if rng.integers(2) else "big"
                data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
            case 2:
                data[at:at] = WORDS[rng.integers(len(WORDS))]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 50))
            case 5 if rng.random() < 0.2:
                del data[at:]
    return bytes(data)


def damage(place: Path, rng: np.random.Generator) -> None:
    """Damage a file, or a file of a folder; of an archive maybe what is in it."""
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    file = files[rng.integers(len(files))]
    if not (zipfile.is_zipfile(file) and rng.random() < 0.7):
        file.write_bytes(damaged(file.read_bytes(), rng))
        return
    with zipfile.ZipFile(file) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    small = [name for name, content in parts.items() if len(content) < 10**6]
    name = next((n for n in small if n.endswith(".pkl")), small[rng.integers(len(small))])
    parts[name] = damaged(parts[name], rng)
    with zipfile.ZipFile(file, "w") as archive:  # with sums that fit
        for each, content in parts.items():
            archive.writestr(each, content)


def fuzz(kind: str, seconds: float, seed: int, folder: Path) -> None:
    """Read damaged inputs of a kind for some time, and write what came of it to result.json."""
    torch.set_num_threads(1)
    reader, source, copy = READERS[kind], folder / "source", folder / "input"
    source.mkdir(parents=True)
    (folder / "current").mkdir()
    made = reader.make(source)
    os.chdir(folder / "current")
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY,) * 2)
    before = _peak()
    count, refused, slowest, failures = 0, 0, 0.0, list[str]()
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy)
        place = copy / made.relative_to(source)
        damage(place, np.random.default_rng((seed, count)))
        there = {path for path in folder.rglob("*") if copy not in path.parents}
        start = time.monotonic()
        try:
            reader.read(place)
        except UserError:
            refused += 1
        except BaseException as error:
            failures.append(f"input {count} of seed {seed}: {type(error).__name__}: {error}"[:300])
        took = time.monotonic() - start
        slowest = max(slowest, took)
        if took > SLOW:
            failures.append(f"input {count} of seed {seed}: took {took:.0f} s")
        if more := {path for path in folder.rglob("*") if copy not in path.parents} - there:
            failures.append(f"input {count} of seed {seed}: wrote {sorted(more)[:3]}")
        count += 1
    result = {
        "inputs": count,
        "refused": refused,
        "seconds": round(time.monotonic() - began, 1),
        "slowest": round(slowest, 2),
        "MiB": round(_peak()),
        "MiB more": round(_peak() - before),
        "failures": failures,
    }
    (folder / "result.json").write_text(json.dumps(result))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the kinds -----------------------------------------------------------------------------------


def _moving(frames: int = 8) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, time, axis=1) for time in range(frames)])


def _a_video(name: str, codec: str) -> Reader:
    return Reader(lambda folder: write_video(folder / name, _moving(), codec=codec), _read_video)


def _read_video(path: Path) -> None:
    try:
        video = VideoFile(path)
        for _ in video.rgb(range(min(video.num_frames, 50))):
            pass
    except UserError:
        for _ in read_in_order(str(path)):
            pass


def _some_frames(folder: Path) -> Path:
    (folder / "clip").mkdir()
    for number, frame in enumerate(_moving(4), start=1):
        (folder / "clip" / f"frame{number:06d}.jpg").write_bytes(encode_jpeg(frame))
    return folder / "clip"


def _an_archive(folder: Path) -> Path:
    frames = _some_frames(folder)
    with zipfile.ZipFile(folder / "frames.zip", "w") as archive:
        for file in sorted(frames.iterdir()):
            archive.write(file, f"clip/{file.name}")
    shutil.rmtree(frames)
    return folder / "frames.zip"


def _read_images(place: Path) -> None:
    frames = FrameImages(open_images(place if place.suffix else place.parent), "clip")
    for _ in frames.rgb(range(frames.num_frames)):
        pass


def _a_model(folder: Path) -> Path:
    base_stream(3, 26, classes=101, seed=1).save(folder / "ucf101-split=1.mat")
    return folder / "ucf101-split=1.mat"


def _a_list(folder: Path) -> Path:
    rows = [f"clips/video_{n}.mp4,class {n % 3},{'test' if n % 4 else 'train'}" for n in range(20)]
    (folder / "list.csv").write_text("\n".join(["path,class,split", *rows]))
    return folder / "list.csv"


def _scores(folder: Path) -> Path:
    rows = {f"v{n}": ("ab"[n % 2], [0.1 * n, 1.0 - n]) for n in range(8)}
    lines = [f"{video},{label},{a},{b}" for video, (label, (a, b)) in rows.items()]
    (folder / "scores.csv").write_text("\n".join(["video,label,a,b", *lines]))
    return folder / "scores.csv"


def _read_scores(path: Path) -> None:
    scores = VideoScores.load(path)
    if scores.labels:  # those of others may have none
        video_accuracies(scores)


def _a_run(folder: Path) -> Path:
    stage = write_stage(folder / "run" / "split1_seed0" / "joint", 50)
    (stage.parent / ".hydra").mkdir()
    (stage.parent / ".hydra" / "config.yaml").write_text("name: e\nstages: {joint: {}}\n")
    (stage / "csv" / "version_0").mkdir(parents=True)
    (stage / "csv" / "version_0" / "metrics.csv").write_text("epoch,val/loss\n0,1.0\n1,0.5\n")
    (stage / "samples").mkdir(exist_ok=True)
    about = {"prediction": "a", "probability": 0.5, "of_label": 0.5}
    sample = {"video": "v", "label": "a", "predictions": {"net": about}}
    text = json.dumps([sample | {"picture": "1.jpg", "film": "1.mp4"}])
    (stage / "samples" / "samples.json").write_text(text)
    return folder / "run"


def _read_run(place: Path) -> None:
    runs, _ = collect([str(place)])
    group_runs(runs)
    for run in runs:
        read_curves(run.folder, ["val/loss"], 1)
        for sample in load_samples(run.folder / "samples"):
            assert sample.caption


READERS = {
    "mp4": _a_video("clip.mp4", "libx264"),
    "avi": _a_video("clip.avi", "mpeg4"),
    "mkv": _a_video("clip.mkv", "libx264"),
    "frames": Reader(_some_frames, _read_images),
    "archive": Reader(_an_archive, _read_images),
    "checkpoint": Reader(
        lambda folder: random_checkpoint(folder / "last.ckpt", "motion"),
        lambda path: load_module(str(path)),
    ),
    "mat": Reader(_a_model, lambda path: import_model(path, 1)),
    "list": Reader(_a_list, read_video_list),
    "scores": Reader(_scores, _read_scores),
    "run": Reader(_a_run, _read_run),
}
