"""Videos, JPEG folders and archives to time readers on, made out of a few videos."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from src.flow.algorithm import prepare, quantize
from src.flow.settings import FlowSettings
from src.media.find_videos import find_videos
from src.media.images import encode_jpeg
from src.media.sources import Uint8, resize, size_at
from src.media.video_file import VideoFile
from src.utils.errors import UserError

SHORT_SIDE = 256
SHORTEST, LONGEST = 30, 200  # frames taken of a video
DRAWN = 120  # frames of a drawn one


@dataclass(frozen=True)
class Fixtures:
    """Frames, flow, videos and archives below a folder."""

    root: Path
    frames: dict[str, int]  # number of frames by the video's name
    source: str  # what it was made from

    @property
    def rgb(self) -> Path:
        """Folder of JPEG frames."""
        return self.root / "jpegs_256"

    @property
    def flow(self) -> Path:
        """Folder of JPEG flow."""
        return self.root / "flow"

    def video(self, kind: str, name: str) -> Path:
        """A video file: "avi" is MPEG-4 with a single key frame, "mp4" is H.264."""
        return self.root / kind / f"{name}.{kind}"


def make_fixtures(root: Path, clips: str | None) -> Fixtures:
    """Make fixtures in an empty folder, out of a folder of videos; None draws some."""
    fixtures = Fixtures(root, {}, clips or "drawn textures")
    for name, frames in _videos(clips):
        frames = [resize(frame, size_at(frame.shape[:2], SHORT_SIDE)) for frame in frames]
        frames = [frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2] for frame in frames]
        fixtures.frames[name] = len(frames)
        _write_images(root, name, frames)
        for kind, codec, options in (
            ("avi", "mpeg4", {"qmin": "2", "qmax": "5", "bf": "2"}),
            ("mp4", "libx264", {"crf": "20"}),
        ):
            if codec in av.codecs_available:
                _encode(fixtures.video(kind, name), frames, codec, options)
    for folder in (fixtures.rgb, fixtures.flow):
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            for file in sorted(folder.rglob("*.jpg")):
                archive.write(file, file.relative_to(root))
    return fixtures


def _videos(clips: str | None) -> Iterator[tuple[str, list[Uint8]]]:
    if clips is None:
        yield from _drawn()
        return
    for path in find_videos(Path(clips)):
        try:
            video = VideoFile(path)
            frames = list(video.rgb(range(min(video.num_frames, LONGEST))))
        except UserError:
            continue  # a broken clip among them is no reason not to measure
        if len(frames) >= SHORTEST:
            yield path.stem, frames


def _drawn() -> Iterator[tuple[str, list[Uint8]]]:
    """Textures that move, with noise: a stand-in where there are no real videos."""
    for number, size in enumerate(((240, 320), (256, 340))):
        rng = np.random.default_rng(number)
        coarse = rng.uniform(0, 255, (20, 26, 3)).astype(np.float32)
        large = cv2.resize(coarse, (size[1] * 2, size[0] * 2), interpolation=cv2.INTER_CUBIC)
        frames = []
        for t in range(DRAWN):
            window = large[t : t + size[0], 2 * t : 2 * t + size[1]]
            noisy = window + rng.normal(scale=4, size=window.shape)
            frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
        yield f"drawn_{number}", frames


def _write_images(root: Path, name: str, frames: list[Uint8]) -> None:
    """Frames and flow in the released layout, and the same in that of mmaction2."""
    algorithm = FlowSettings("dis").make()
    grey = np.stack([prepare(frame, SHORT_SIDE, algorithm.color) for frame in frames])
    flow = quantize(algorithm.fields(grey[:-1], grey[1:]))  # (N - 1, H, W, 2)
    for number, frame in enumerate(frames, start=1):
        _write(root, frame, f"jpegs_256/{name}/frame{number:06d}", f"{name}/img_{number:05d}")
    for number, field in enumerate(flow, start=1):
        for channel, (component, axis) in enumerate(zip("uv", "xy", strict=True)):
            place = f"flow/{component}/{name}/frame{number:06d}"
            _write(root, field[..., channel], place, f"{name}/flow_{axis}_{number:05d}")


def _write(root: Path, image: Uint8, released: str, mmaction2: str) -> None:
    file, link = root / f"{released}.jpg", root / "rawframes" / f"{mmaction2}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode_jpeg(image))
    link.hardlink_to(file)


def _encode(path: Path, frames: list[Uint8], codec: str, options: dict[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if codec == "mpeg4":
            stream.codec_context.gop_size = 100_000  # a single key frame, as in HMDB51
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
