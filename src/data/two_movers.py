"""The embedded synthetic dataset: what moves where is told only by both streams at one position.

Noise drifts behind two apertures that stay in place: the target is tinted red or green, the
distractor blue. The label is the target's tint and direction. A frame shows the tint alone; flow
shows both directions, but not whose is whose, because all tints have the same luma. Objects that
move as a whole would leak: where they start tells their direction.

    <root>/videos/<class>/<class>_000123.mp4     64 x 64, 32 frames, 25 fps
    <root>/flow/{u,v}/<class>_000123/frame000001.jpg
    <root>/train.csv, test.csv                   video,class
    <root>/two_movers.json                       what it was made from; there only when all is done
"""

import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from src.data.splits import Split, Video
from src.errors import UserError
from src.hardware import usable_cores

if TYPE_CHECKING:
    from src.flow.settings import FlowSettings

VERSION = 1  # of the recipe: raise it when what is drawn changes
SIZE, FRAMES, FPS = 64, 32, 25
RADIUS = 0.165 * SIZE
TORUS = 96  # a texture's side: an aperture and its drift, 31 frames of 2 px, do not go round it

# Offsets to a grey pixel's R, G, B that keep its luma (0.299 R + 0.587 G + 0.114 B).
TINTS = {
    "red": 72 * np.array([0.701, -0.299, -0.299]),
    "green": 72 * np.array([-0.587, 0.413, -0.587]),
    "blue": 72 * np.array([-0.114, -0.114, 0.886]),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # u, v
CLASSES = tuple(f"{tint}_{direction}" for tint in ("red", "green") for direction in DIRECTIONS)
CORNERS = {"disc": 0, "square": 4, "triangle": 3, "hexagon": 6}
DONE, UNFINISHED = "two_movers.json", "two_movers.unfinished.json"

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Mover:
    """One aperture: its centre (x, y) in pixels, its tint, and where the noise in it drifts."""

    centre: tuple[float, float]
    tint: str
    direction: str


@dataclass(frozen=True)
class Clip:
    """A clip's frames, uint8 RGB (32, 64, 64, 3), and what they show; `speed` in px per frame."""

    frames: npt.NDArray[np.uint8]
    shape: str
    speed: float
    target: Mover
    distractor: Mover


@dataclass(frozen=True)
class _Job:
    """A video to make, and all that its content depends on."""

    video: Video
    seed: tuple[int, int, int]  # the dataset's seed, 0 for train or 1 for test, place in that part


def read_two_movers(
    root: str, num_train: int, num_test: int, seed: int, split: int = 1, workers: int | None = None
) -> Split:
    """Read the dataset in the folder `root`, made first unless it is there.

    An interrupted making is continued. Labels take turns, so that classes are balanced.

    Args:
        root: the dataset's own folder.
        num_train: clips to train on.
        num_test: clips to test on.
        seed: of everything that is drawn.
        split: 1, there is no other.
        workers: processes that make it; None is one per core, fewer for a few clips.

    Raises:
        UserError: a wrong argument, a folder made from other arguments, or one not to write in.
    """
    if split != 1:
        raise UserError(f"data.split={split} does not exist: two_movers has split 1 only")
    _require("num_train", num_train, 1)
    _require("num_test", num_test, 1)
    _require("seed", seed, 0)
    _require("workers", 1 if workers is None else workers, 1)
    recipe = {"version": VERSION, "num_train": num_train, "num_test": num_test, "seed": seed}
    folder = Path(root)
    train = [_job(folder, (seed, 0, index), index) for index in range(num_train)]
    test = [_job(folder, (seed, 1, index), num_train + index) for index in range(num_test)]
    try:
        if not _is_done(folder, recipe):
            _make(folder, recipe, train, test, workers)
    except OSError as error:
        raise UserError(f"two_movers cannot be made in {root}: {error}") from error
    return Split(CLASSES, tuple(job.video for job in train), tuple(job.video for job in test))


def flow_settings() -> "FlowSettings":
    """The settings of the dataset's flow: a fast algorithm, at the videos' own size."""
    # Imported here, because this brings torch along, which the processes that draw can do without.
    from src.flow.settings import FlowSettings

    parameters = {"preset": "medium", "finest_scale": 0}
    return FlowSettings(algorithm="dis", parameters=parameters, short_side=SIZE)


def make_clip(rng: np.random.Generator, label: int) -> Clip:
    """Draw one clip of class CLASSES[label].

    What is drawn does not depend on the label, which enters afterwards: clips of one generator
    state and different labels share shapes, places, textures, speed, noise, and their first frame
    but for the tint.
    """
    tint, direction = CLASSES[label].split("_")
    shape = str(rng.choice(list(CORNERS)))
    centres = _centres(rng)
    masks = [_aperture(centre, CORNERS[shape], rng.uniform(0, 2 * math.pi)) for centre in centres]
    speed = float(rng.uniform(1, 2))
    textures = [_texture(rng) for _ in range(3)]
    noise = rng.normal(scale=3, size=(FRAMES, SIZE, SIZE))
    turn = int(rng.integers(1, len(DIRECTIONS)))
    names = list(DIRECTIONS)
    other = names[(names.index(direction) + turn) % len(names)]
    movers = [Mover(centres[0], tint, direction), Mover(centres[1], "blue", other)]

    luma = np.repeat(_drift(textures[2], (0, 0), 1), FRAMES, axis=0)  # (T, H, W)
    colour = np.zeros((SIZE, SIZE, 3))
    for mover, mask, texture in zip(movers, masks, textures[:2], strict=True):
        u, v = DIRECTIONS[mover.direction]
        luma += mask * (_drift(texture, (u * speed, v * speed), FRAMES) - luma)
        colour += mask[..., None] * TINTS[mover.tint]
    # Within two deviations no pixel leaves 0..255, tinted or not: clipping would change its luma.
    luma = 128 + 24 * np.clip(luma, -2, 2) + noise
    frames = np.clip(np.rint(luma[..., None] + colour), 0, 255).astype(np.uint8)  # (T, H, W, 3)
    return Clip(frames, shape, speed, *movers)


def _centres(rng: np.random.Generator) -> list[tuple[float, float]]:
    while True:
        first, second = rng.uniform(RADIUS + 1, SIZE - RADIUS - 1, size=(2, 2)).tolist()
        if math.dist(first, second) > 2.5 * RADIUS:
            return [tuple(first), tuple(second)]


def _aperture(centre: tuple[float, float], corners: int, angle: float) -> Array:
    """A disc or regular polygon as a mask (H, W) of 0..1 with an edge one pixel soft."""
    x, y = (
        (np.arange(SIZE) + 0.5 - centre[0])[None, :],
        (np.arange(SIZE) + 0.5 - centre[1])[:, None],
    )
    if corners == 0:
        outside = np.hypot(x, y) - RADIUS
    else:  # how far beyond the farthest of its sides
        normals = angle + 2 * math.pi * np.arange(corners)[:, None, None] / corners
        sides = x * np.cos(normals) + y * np.sin(normals)  # (corners, H, W)
        outside = sides.max(axis=0) - RADIUS * math.cos(math.pi / corners)
    return np.clip(0.5 - outside, 0, 1)


def _texture(rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """Smooth noise on a torus as its spectrum (TORUS, TORUS // 2 + 1); deviation 1, mean 0."""
    spectrum = np.fft.rfft2(rng.normal(size=(TORUS, TORUS)))
    frequency = np.hypot(np.fft.fftfreq(TORUS)[:, None], np.fft.rfftfreq(TORUS)[None, :])
    spectrum *= np.exp(-0.5 * (frequency / 0.11) ** 2) * (frequency > 0)
    return (spectrum / np.fft.irfft2(spectrum).std()).astype(np.complex64)


def _drift(texture: npt.NDArray[np.complex64], velocity: tuple[float, float], frames: int) -> Array:
    """Frames (T, H, W) of a texture that moves by `velocity` = (u, v) px per frame.

    Shifting the phases is exact at any part of a pixel. Interpolating blurs along the motion, and
    a single frame would show its axis.
    """
    times = -2j * math.pi * np.arange(frames)[:, None, None]
    u, v = velocity
    phases = np.exp(times * u * np.fft.rfftfreq(TORUS)[None, None, :])
    phases = phases * np.exp(times * v * np.fft.fftfreq(TORUS)[None, :, None])
    moved = np.fft.irfft2(texture * phases.astype(np.complex64))  # (T, TORUS, TORUS)
    return moved[:, :SIZE, :SIZE]


def _require(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise UserError(f"two_movers: {name}={value!r} is not a whole number from {least}")


def _job(folder: Path, seed: tuple[int, int, int], number: int) -> _Job:
    label = seed[2] % len(CLASSES)
    name = f"{CLASSES[label]}_{number:06d}"
    return _Job(Video(name, folder / "videos" / CLASSES[label] / f"{name}.mp4", label), seed)


def _is_done(folder: Path, recipe: dict[str, int]) -> bool:
    """Whether the dataset is there and whole; UserError if what is there is of another recipe."""
    mend = f"give another folder as data.dataset.root=... or delete {folder}"
    # In this order, so that a process that makes it at this moment leads to no wrong answer.
    begun = (folder / "videos").exists()
    for file in (folder / UNFINISHED, folder / DONE):
        try:
            made = dict(json.loads(file.read_text()))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is not readable ({error}): {mend}") from error
        names = [name for name in recipe if made.get(name) != recipe[name]]
        if names:
            there = ", ".join(f"{name}={made.get(name)}" for name in names)
            asked = ", ".join(f"{name}={recipe[name]}" for name in names)
            raise UserError(f"two_movers in {folder} is made with {there}, not {asked}: {mend}")
        return file.name == DONE
    if begun:
        raise UserError(f"{folder} has videos of unknown origin, as {DONE} is missing: {mend}")
    return False


def _make(
    folder: Path, recipe: dict[str, int], train: list[_Job], test: list[_Job], workers: int | None
) -> None:
    from src.flow.extract import extract_flow  # here for the reason given in `flow_settings`

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # the jobs of a sweep may all start with this
        if _is_done(folder, recipe):
            return
        _write(folder / UNFINISHED, json.dumps(recipe, indent=2) + "\n")
        jobs = train + test
        workers = workers or max(1, min(usable_cores(), len(jobs) // 50))
        _make_videos([job for job in jobs if not job.video.path.is_file()], workers)
        videos = [job.video.path for job in jobs]
        failed = extract_flow(videos, folder / "flow", flow_settings(), workers).failed
        for name, reason in failed.items():
            raise UserError(f"two_movers: no flow of {name} ({reason}): delete {folder}")
        _write(folder / "train.csv", _table(train))
        _write(folder / "test.csv", _table(test))
        (folder / UNFINISHED).replace(folder / DONE)


def _table(jobs: list[_Job]) -> str:
    rows = [(CLASSES[job.video.label], job.video.path.name) for job in jobs]
    return "video,class\n" + "".join(f"videos/{name}/{file},{name}\n" for name, file in rows)


def _make_videos(jobs: Sequence[_Job], workers: int) -> None:
    if not jobs:
        return
    text, console = "Drawing two_movers", Console(stderr=True)
    if workers == 1:
        for job in track(jobs, text, console=console):
            _make_video(job)
        return
    # Spawned: the parent may hold threads, of torch for one, and a fork of them hangs.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
        try:
            made = pool.map(_make_video, jobs, chunksize=4)
            for _ in track(made, text, len(jobs), console=console):
                pass
        except BrokenProcessPool as error:
            raise UserError(
                "a process that draws two_movers died: the same command goes on with the rest"
            ) from error
        except BaseException:  # Ctrl-C among them: end without drawing the rest
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent acts
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # returns when the parent was killed, too
    os._exit(1)


def _make_video(job: _Job) -> None:
    clip = make_clip(np.random.default_rng(job.seed), job.video.label)
    path = job.video.path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    _encode(clip.frames, part)
    part.replace(path)


def _encode(frames: npt.NDArray[np.uint8], path: Path) -> None:
    """Write RGB frames (T, H, W, 3) as mp4.

    Every frame is a key frame: one predicted from others could show traces of the motion.
    """
    if "libx264" in av.codecs_available:
        codec, options = "libx264", {"crf": "12", "preset": "veryfast"}
    else:
        codec, options = "mpeg4", {"qmin": "2", "qmax": "2"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_count = 1  # there is a process per core
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_text(text)
    part.replace(file)
