"""Writing frames to an mp4 that any player shows."""

from fractions import Fraction
from pathlib import Path

import av

from src.media.sources import Size, Uint8
from src.utils.errors import UserError, first_line


class VideoWriter:
    """Encodes RGB frames, H.264 where PyAV has it, else MPEG-4; closing it completes the file.

    Args:
        path: the file.
        size: height and width of every frame, even.
        rate: frames per second.
        crf: quality of H.264, smaller is better; MPEG-4 has its best.
        key_frames_only: whether no frame is predicted from another.
        ticks: of a second; with them each frame has a time of its own, without `rate` tells it.
    """

    def __init__(
        self,
        path: Path,
        size: Size,
        rate: int | Fraction,
        crf: int,
        key_frames_only: bool = False,
        ticks: int | None = None,
    ) -> None:
        if "libx264" in av.codecs_available:
            codec, options = "libx264", {"crf": str(crf), "preset": "veryfast"}
        else:
            codec, options = "mpeg4", {"qmin": "2", "qmax": "2"}
        self._path = path
        self._container = av.open(str(path), "w", format="mp4")
        self._stream = self._container.add_stream(codec, rate=rate, options=options)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1  # there may be a process per core
        if key_frames_only:
            self._stream.codec_context.gop_size = 1
        self._tick = Fraction(1, ticks) if ticks else None
        if self._tick:
            self._stream.codec_context.time_base = self._tick
        self._last = -1

    def write(self, image: Uint8, time: float = 0.0) -> None:
        """Add a frame (H, W, 3), shown from `time` on, in seconds, if frames have times.

        Raises:
            UserError: the encoder refuses it, or the disk does.
        """
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        if self._tick:
            # Players want them ascending.
            self._last = max(round(time / self._tick), self._last + 1)
            frame.pts, frame.time_base = self._last, self._tick
        self._add(frame)

    def close(self) -> None:
        """Complete the file; errors as of `write`."""
        try:
            self._add(None)
        finally:
            self._container.close()

    def _add(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, ValueError) as error:
            size = f"{self._stream.width}x{self._stream.height}"
            raise UserError(
                f"a video of {size} pixels cannot be written to {self._path} ({first_line(error)})"
            ) from error
