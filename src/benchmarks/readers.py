"""Clips per second out of JPEG images, archives and video files, on one core."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from src.benchmarks.harness import Contender, Measurement, measure
from src.benchmarks.material import Material
from src.benchmarks.peers import CROP, Draw, by_hand_images, by_hand_video, mmaction2
from src.data.dataset import read_view
from src.data.images import FlowImages, FrameImages, ImageTree, open_images
from src.data.sampling import valid_range
from src.data.sources import Size, size_at
from src.data.transforms import CornerJitterCrop, Geometry
from src.data.video_file import VideoFile

FRAMES, STACK, TAU = 5, 10, 10  # at this tau stacks of 10 do not overlap: all images are different
SHORT_SIDE = 256


class _Fixed:
    """A view of chosen frames, cut at random as in training."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw

    def frames(self, first: int, last: int, rng: np.random.Generator) -> np.ndarray:
        return np.array(self._draw.frames)

    def geometry(self, frame: Size, rng: np.random.Generator) -> Geometry:
        box = CornerJitterCrop(CROP)(size_at(frame, SHORT_SIDE), rng)
        return Geometry(box, (CROP, CROP), bool(rng.random() < 0.5))


def _draws(material: Material, count: int) -> list[Draw]:
    rng = np.random.default_rng(0)
    draws = []
    names = list(material.frames)
    for number in range(count):
        name = names[number % len(names)]
        first, last = valid_range(material.frames[name], material.frames[name] - 1, STACK)
        tau = min(TAU, (last - first) // (FRAMES - 1))
        start = int(rng.integers(first, last - tau * (FRAMES - 1), endpoint=True))
        frames = np.arange(FRAMES) * tau + start
        fields = (frames[:, None] + np.arange(-STACK // 2, STACK // 2)).ravel()
        fields = np.clip(fields, 0, material.frames[name] - 2)
        draws.append(Draw(name, tuple(frames.tolist()), tuple(fields.tolist()), number))
    return draws


def _each(draws: list[Draw], read: Callable[[Draw], object]) -> Callable[[], int]:
    def run() -> int:
        for draw in draws:
            read(draw)
        return len(draws)

    return run


def loader(material: Material, clips: int, rounds: int) -> Measurement:
    """Two-stream clips (5 RGB frames, 5 x 10 flow fields, 224 x 224) from JPEG images."""
    draws = _draws(material, clips)
    rawframes = material.root / "rawframes"
    images = [list(_jpegs(rawframes, draw)) for draw in draws]

    def decode_only() -> int:
        for clip in images:
            for data, flags in clip:
                cv2.imdecode(data, flags)
        return len(images)

    def ours(rgb: ImageTree, flow: ImageTree) -> Callable[[], int]:
        def read(draw: Draw) -> object:
            rng = np.random.default_rng(draw.seed)
            sources = FrameImages(rgb, draw.video), FlowImages(flow, draw.video)
            return read_view(*sources, _Fixed(draw), STACK, rng, draw.video)

        return _each(draws, read)

    root = material.root
    folders = ours(open_images(material.rgb), open_images(material.flow))
    zips = ours(open_images(root / "jpegs_256.zip"), open_images(root / "flow.zip"))
    pieces = ours(
        open_images(root / "pieces/jpegs_256.zip.001"), open_images(root / "pieces/flow.zip.001")
    )
    same_layout = open_images(rawframes)
    peer = mmaction2()
    others = [
        Contender("the same calls by hand", _each(draws, lambda d: by_hand_images(rawframes, d))),
        Contender("decode only", decode_only, "the limit: the same JPEGs from memory"),
        Contender("ours, folders", folders, "u/ v/ layout"),
        Contender("ours, img_ folders", ours(same_layout, same_layout), "flow_x_ layout"),
        Contender("ours, zip", zips),
        Contender("ours, zip in 3 pieces", pieces),
    ]
    if peer:
        baseline = Contender("mmaction2", _each(draws, lambda d: peer.images(rawframes, d)))
    else:
        baseline = others.pop(0)
    return measure(
        f"loader: {FRAMES} RGB frames + {FRAMES} x {STACK} flow fields to {CROP} x {CROP}",
        "clips",
        baseline,
        others,
        rounds,
        [_about(material)],
    )


def _jpegs(rawframes: Path, draw: Draw) -> Iterator[tuple[np.ndarray, int]]:
    names = [(f"img_{i + 1:05d}.jpg", cv2.IMREAD_COLOR) for i in draw.frames]
    for i in dict.fromkeys(draw.fields):  # each once, also where stacks overlap
        names += [(f"flow_{axis}_{i + 1:05d}.jpg", cv2.IMREAD_GRAYSCALE) for axis in "xy"]
    for name, flags in names:
        data = (rawframes / draw.video / name).read_bytes()
        yield np.frombuffer(data, np.uint8), flags


def decode(material: Material, clips: int, rounds: int) -> list[Measurement]:
    """Clips of 5 RGB frames out of video files of both kinds."""
    draws = _draws(material, clips)
    peer = mmaction2()
    tables = []
    for kind, about in (("avi", "MPEG-4, a single key frame"), ("mp4", "H.264")):
        if not (material.root / kind).is_dir():
            continue

        def ours(decoder: str, kind: str = kind) -> Callable[[], int]:
            def read(draw: Draw) -> object:
                video = VideoFile(material.video(kind, draw.video), decoder)
                rng = np.random.default_rng(draw.seed)
                return read_view(video, None, _Fixed(draw), STACK, rng, draw.video)

            return _each(draws, read)

        def peer_read(draw: Draw, kind: str = kind) -> None:
            assert peer
            peer.frames(material.video(kind, draw.video), draw)

        def by_hand(draw: Draw, kind: str = kind) -> object:
            return by_hand_video(material.video(kind, draw.video), draw)

        others = [Contender("ours, decoder=auto", ours("auto"))]
        if find_spec("decord"):
            others.append(Contender("ours, decoder=decord", ours("decord")))
            others.insert(0, Contender("decord by hand", _each(draws, by_hand)))
        baseline = Contender("mmaction2", _each(draws, peer_read)) if peer else others.pop(0)
        title = f"decode: {FRAMES} RGB frames to {CROP} x {CROP} from .{kind} ({about})"
        tables.append(measure(title, "clips", baseline, others, rounds, [_about(material)]))
    return tables


def _about(material: Material) -> str:
    frames = sum(material.frames.values())
    return f"{len(material.frames)} videos, {frames} frames, from {material.source}; one core"
