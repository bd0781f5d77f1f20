"""All frames of a video or a stream, once and in order, upright, each with its time."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
from av.video.reformatter import VideoReformatter

from src.media.decoding import breaks_off, frames_of, image_of, open_video, rate_of
from src.media.sources import Uint8, resize
from src.utils.errors import UserError, first_line

PATIENCE = 30.0  # seconds to wait for a stream's next packet


@dataclass(frozen=True)
class TimedFrame:
    """A frame and when it is shown, in seconds.

    Args:
        index: place in the video, from 0.
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
    special = path.exists() and not (path.is_file() or path.is_dir())
    return "://" in source or source.startswith("pipe:") or special


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
    with suppress(av.FFmpegError, ValueError), open_video(path) as stream:
        if duration := stream.container.duration:
            return duration / av.time_base
    return None


def _decoded(source: str) -> Iterator[TimedFrame]:
    index, now, size, reformatter = 0, 0.0, (0, 0), VideoReformatter()
    patience = PATIENCE if is_stream(source) else None
    try:
        with open_video(source, timeout=patience) as stream:
            usual = float(1 / rate_of(stream))
            for frame in frames_of(stream):
                image = image_of(frame, reformatter)
                size = size if index else image.shape[:2]
                duration = float((frame.duration or 0) * (frame.time_base or 0)) or usual
                before, now = now, frame.time
                if now is None or (index and now < before):  # no times, or they begin again
                    now = before + usual if index else 0.0
                yield TimedFrame(index, round(now, 6), duration, resize(image, size))
                index += 1
            if not index:
                raise ValueError("no frame in it")
            if not is_stream(source) and breaks_off(Path(source), stream, index):
                raise ValueError("the rest of the file is missing")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = first_line(error)
        if index:
            raise UserError(f"{source} breaks off at {now:.2f} s ({reason})") from error
        failed = "opened" if isinstance(error, av.FFmpegError | OSError) else "decoded"
        raise UserError(f"{source} cannot be {failed} ({reason}): give another input") from error


def _camera(device: str) -> Iterator[TimedFrame]:
    """OpenCV reads cameras; PyAV as it is installed from its wheel does not."""
    capture = cv2.VideoCapture(device)
    try:
        start, size, index = time.monotonic(), (0, 0), 0
        while True:
            success, image = capture.read()
            if not success:
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
