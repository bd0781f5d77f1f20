"""Random access to a video's RGB frames and to its flow fields, as uint8 arrays.

Two small interfaces, so that any mix works: frames from a video file with flow from JPEG files, or
with flow computed on the spot.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
import numpy.typing as npt

from src.errors import UserError

try:
    import decord

    decord.logging.set_level(decord.logging.FATAL)
except ImportError:  # no wheel for this platform: PyAV reads everything
    decord = None
av.logging.set_level(av.logging.PANIC)

Uint8 = npt.NDArray[np.uint8]


class RGBSource(Protocol):
    """Frames of one video."""

    num_frames: int

    def rgb(self, indices: Sequence[int]) -> Uint8:
        """Read the frames `indices` (from 0, any order, repeats allowed) as (N, H, W, 3)."""
        ...


class FlowSource(Protocol):
    """Flow fields of one video; field i goes from frame i to frame i + 1."""

    num_fields: int

    def flow(self, indices: Sequence[int]) -> Uint8:
        """Read the fields `indices` (from 0) as quantised (N, H, W, 2), channels u, v."""
        ...


class VideoFile:
    """The frames of a video file, by decord where it can open the file and by PyAV otherwise.

    Keep it no longer than one clip needs: a reader holds the decoder's memory, and it must not
    cross a process boundary. `decoder` tells which library reads the file.

    Raises:
        UserError: neither library finds a frame in the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.num_frames, self.decoder = 0, "decord"
        if not self.path.is_file():
            raise UserError(f"video {path} does not exist")
        if decord is not None:
            try:
                # One thread: a loader has a process per core already, and decord's threads hang.
                self._reader = decord.VideoReader(str(path), num_threads=1)
                self.num_frames = len(self._reader)
            except (decord.DECORDError, RuntimeError):
                self.num_frames = 0
        if self.num_frames == 0:
            self._use_pyav()

    @property
    def fps(self) -> float:
        """Frames per second as the container states them, 25 where it does not."""
        with av.open(str(self.path)) as container:
            return float(container.streams.best("video").average_rate or 25)

    def rgb(self, indices: Sequence[int]) -> Uint8:
        """Read the frames `indices` (from 0, any order, repeats allowed) as (N, H, W, 3).

        Raises:
            UserError: the file breaks off before one of them.
        """
        if self.decoder == "decord":
            try:
                return np.asarray(self._reader.get_batch(list(indices)).asnumpy())
            except (decord.DECORDError, RuntimeError):
                self._use_pyav()  # it may go on where decord stops
        if max(indices) >= len(self._frames):
            raise UserError(
                f"video {self.path} is broken: only {len(self._frames)} frames can be decoded; "
                "replace the file or take it out of the list"
            )
        return np.stack([self._frames[index] for index in indices])

    def _use_pyav(self) -> None:
        # Everything in order: it needs no seek table, which is what such files often lack.
        self.decoder, self._frames = "pyav", []
        reason, stated = "no frame in it", 0
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.best("video")  # decord's choice among several, too
                stated = stream.frames if stream else 0
                for frame in container.decode(stream) if stream else ():
                    self._frames.append(frame.to_ndarray(format="rgb24"))
        except (av.FFmpegError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.num_frames = max(self.num_frames, stated)  # `rgb` tells where it breaks off
        if not self._frames:
            raise UserError(
                f"video {self.path} cannot be decoded ({reason}): "
                "replace the file or take it out of the list"
            )
        self.num_frames = max(self.num_frames, len(self._frames))


class FlowFolder:
    """Flow in the released layout: `<root>/{u,v}/<video>/frame%06d.jpg`, from 1, 8-bit grey.

    Raises:
        UserError: there is no flow for this video, or u and v differ in number.
    """

    def __init__(self, root: str | Path, video: str) -> None:
        self.folders = tuple(Path(root) / component / video for component in "uv")
        counts = [_count_jpegs(str(folder)) for folder in self.folders]
        if counts[0] != counts[1] or counts[0] == 0:
            raise UserError(
                f"flow of video {video}: {counts[0]} u and {counts[1]} v files in "
                f"{self.folders[0]} and {self.folders[1]}; make it with "
                f"python -m src.extract_flow input=<folder of videos> output={root}"
            )
        self.num_fields = counts[0]

    def flow(self, indices: Sequence[int]) -> Uint8:
        """Read the fields `indices` (from 0) as quantised (N, H, W, 2), channels u, v."""
        cache = {i: self._read(i) for i in dict.fromkeys(indices)}  # stacks of a clip overlap
        return np.stack([cache[i] for i in indices])

    def _read(self, index: int) -> Uint8:
        components = []
        for folder in self.folders:
            file = folder / f"frame{index + 1:06d}.jpg"
            image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            if image is None:
                raise UserError(f"flow image {file} is missing or broken: extract its video again")
            components.append(image)
        if components[0].shape != components[1].shape:
            raise UserError(f"flow image {file} differs in size from its u: extract it again")
        return np.stack(components, axis=-1)  # (H, W, 2)


@functools.lru_cache(maxsize=100_000)
def _count_jpegs(folder: str) -> int:
    """Listing a folder of files is the slowest thing a cluster file system does: once a process."""
    path = Path(folder)
    return sum(file.suffix == ".jpg" for file in path.iterdir()) if path.is_dir() else 0
