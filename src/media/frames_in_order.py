"""All frames of a video or a stream, once and in order, upright, each with its time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from src.media.sources import Size, Uint8, resize
from src.media.video_file import VideoFile, open_container, stream_of
from src.utils.errors import UserError, first_line

PATIENCE = 30.0  # seconds to wait for a stream's next packet


@dataclass(frozen=True)
class TimedFrame:
    """A frame, its place in the video from 0, and when it is shown, in seconds.

    Args:
        index: place in the video.
        time: by the file's own time stamps.
        duration: as the file states it, else by the frame rate.
        image: RGB (H, W, 3), upright; every frame has the size of the first.
    """

    index: int
    time: float
    duration: float
    image: Uint8


def is_stream(source: str) -> bool:
    """Whether it is a URL, a pipe or a device: read once, and nobody knows where it ends."""
    path = Path(source)
    there = path.exists() and not (path.is_file() or path.is_dir())
    return "://" in source or source.startswith("pipe:") or there


def read_in_order(source: str) -> Iterator[TimedFrame]:
    """The frames of a file or a stream one by one; nothing that was read is kept.

    Raises:
        UserError: it cannot be opened, has no video, or breaks off.
    """
    if Path(source).is_char_device():
        return _camera(source)
    return _decoded(source)


def duration_of(path: str) -> float | None:
    """Seconds that a file states to last; None if it does not."""
    try:
        with open_container(path) as container:
            return container.duration / av.time_base if container.duration else None
    except (av.FFmpegError, ValueError):
        return None


def _decoded(source: str) -> Iterator[TimedFrame]:
    index, now, size, reformatter = 0, 0.0, (0, 0), VideoReformatter()
    patience = PATIENCE if is_stream(source) else None
    try:
        with open_container(source, timeout=patience) as container:
            stream = stream_of(container)
            if stream is None:
                raise UserError(f"{source} cannot be decoded (no video in it): give another file")
            stream.codec_context.thread_count = 1  # with more, PyAV may hang on a broken file
            usual = float(1 / (stream.average_rate or 25))
            for frame in container.decode(stream):
                image = reformatter.reformat(frame, format="rgb24").to_ndarray()
                image = upright(image, quarter_turns(frame))
                size = size if index else image.shape[:2]
                stated = frame.duration and frame.time_base
                duration = float(frame.duration * frame.time_base) if stated else usual
                stated = frame.time
                if stated is None or (index and stated < now):  # no times, or they begin again
                    stated = now + usual if index else 0.0
                now = stated
                yield TimedFrame(index, round(now, 6), duration, resize(image, size))
                index += 1
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = first_line(error)
        if index:
            raise UserError(f"{source} breaks off at {now:.2f} s ({reason})") from error
        raise UserError(f"{source} cannot be opened ({reason}): give another input") from error
    if not index:
        raise UserError(f"{source} cannot be decoded (no frame in it): give another file")


def _camera(device: str) -> Iterator[TimedFrame]:
    """OpenCV reads cameras; PyAV as it is installed from its wheel does not."""
    capture = cv2.VideoCapture(device)
    try:
        start, size = time.monotonic(), (0, 0)
        index = 0
        while True:
            there, image = capture.read()
            if not there:
                break
            size = size if index else image.shape[:2]
            now = round(time.monotonic() - start, 6)
            rgb = resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), size)
            yield TimedFrame(index, now, 1 / 30, rgb)
            index += 1
    finally:
        capture.release()
    raise UserError(
        f"{device} {'stopped' if index else 'gives no picture'}: give a camera such as "
        "/dev/video0 that no other program uses"
    )


def quarter_turns(frame: av.VideoFrame) -> int:
    """How often a frame is to be turned by 90 degrees, against the clock, to be upright."""
    return round(frame.rotation / 90) % 4


def upright(image: Uint8, turns: int) -> Uint8:
    """Turn an image (H, W, 3) by quarters, against the clock."""
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class Upright:
    """A video file's frames as they are to be looked at, which `VideoFile` leaves as stored.

    Args:
        path: the file.

    Raises:
        UserError: no frame can be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        self._file, self._turns = VideoFile(path), _turns_of(path)
        self.num_frames, self.fps = self._file.num_frames, self._file.fps

    @property
    def size(self) -> Size:
        """Height and width of a frame."""
        height, width = self._file.size
        return (width, height) if self._turns % 2 else (height, width)

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """Read the frames `indices` (from 0, any order, repeats allowed), each (H, W, 3)."""
        return (upright(image, self._turns) for image in self._file.rgb(indices))


def _turns_of(path: str | Path) -> int:
    try:
        with open_container(str(path)) as container:
            stream = stream_of(container)
            if stream is None:
                return 0
            stream.codec_context.thread_count = 1
            return quarter_turns(next(container.decode(stream)))
    except (av.FFmpegError, ValueError, StopIteration):
        return 0  # `VideoFile` tells what is wrong, or reads it another way
