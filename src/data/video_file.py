"""Frames of video files, by the decoder that is fastest for the file.

The rule of "auto", measured by `python -m src.benchmark target=decode`: MPEG-4 Part 2 (the .avi
files of HMDB51 and UCF101) and H.264 files of up to 64 MiB are read through PyAV, which lets us
leave out the B frames that nobody asked for; everything else through decord, which seeks; and what
decord cannot open, frame by frame through PyAV.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import av
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import VideoReformatter

from src.data.sources import Size, Uint8, in_order
from src.errors import UserError

try:
    import decord

    decord.logging.set_level(decord.logging.FATAL)
except ImportError:  # no wheel for this platform: PyAV reads everything
    decord = None
av.logging.set_level(av.logging.PANIC)

DECODERS = ("auto", "pyav", "decord", "torchcodec")
LARGE = 64 * 2**20  # bytes; PyAV holds a file's packets in memory
CHUNK = 8  # frames that decord and torchcodec decode at once


class _Unsuitable(Exception):
    """This reader cannot read this file; another one may."""


class _Reader(Protocol):
    num_frames: int
    fps: float

    @property
    def size(self) -> Size: ...

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """Frames of ascending indices."""
        ...


class VideoFile:
    """The frames of a video file.

    Keep it no longer than one clip needs: a reader holds the decoder's memory, and it must not
    cross a process boundary. `decoder` tells which library reads the file, `fps` is what the
    container states, 25 where it does not.

    Args:
        path: the file.
        decoder: auto, decord, pyav, or torchcodec (if that is installed).

    Raises:
        UserError: no reader finds a frame in the file.
    """

    def __init__(self, path: str | Path, decoder: str = "auto") -> None:
        self.path = Path(path)
        if decoder not in DECODERS:
            raise UserError(f"decoder={decoder}: choose from {', '.join(DECODERS)}")
        if not self.path.is_file():
            raise UserError(f"video {path} does not exist")
        self._reader, self.decoder = self._open(decoder)
        self.num_frames, self.fps = self._reader.num_frames, self._reader.fps

    @property
    def size(self) -> Size:
        """Height and width of a frame."""
        return self._reader.size

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        """Read the frames `indices` (from 0, any order, repeats allowed), each (H, W, 3).

        Raises:
            UserError: the file breaks off before one of them.
        """
        return in_order(indices, self._ascending)

    def _ascending(self, indices: Sequence[int]) -> Iterator[Uint8]:
        read = 0
        try:
            for image in self._reader.rgb(indices):
                yield image
                read += 1
        except _Unsuitable:
            # Decoding in order may go on where a reader that jumps stops.
            self._reader, self.decoder = _InOrder(self.path), "pyav"
            yield from self._reader.rgb(indices[read:])

    def _open(self, decoder: str) -> tuple[_Reader, str]:
        path = self.path
        if decoder == "torchcodec":
            return _TorchCodec(path), decoder
        attempts: list[tuple[Callable[[Path], _Reader], str]] = [
            (_Packets, "pyav"),
            (_Decord, "decord"),
        ]
        if decoder == "decord":
            attempts.reverse()
        for reader, name in attempts:
            if decoder in ("auto", name):
                try:
                    return reader(path), name
                except _Unsuitable:
                    continue
        return _InOrder(path), "pyav"


class _Packets:
    """PyAV on the packets of the whole file: decodes from a key frame, without unwanted B frames.

    That a B frame is one on which no other depends is part of MPEG-4 Part 2, and told by the
    decoder itself in H.264, so the frames that come out are those of a full decoding.
    """

    def __init__(self, path: Path) -> None:
        if path.stat().st_size > LARGE:
            raise _Unsuitable
        try:
            self._container = av.open(str(path))
            stream = self._container.streams.best("video")  # decord's choice among several, too
            if stream is None or stream.codec_context.name not in ("mpeg4", "h264"):
                raise _Unsuitable
            self._codec = stream.codec_context
            self._codec.thread_count = 1  # a loader has a process per core already
            self.fps = float(stream.average_rate or 25)
            self.size = (self._codec.height, self._codec.width)
            packets = [packet for packet in self._container.demux(stream) if packet.size]
            self._mpeg4 = self._codec.name == "mpeg4"
            if self._mpeg4:
                packets = _one_frame_each(packets, stream)
        except (av.FFmpegError, ValueError) as error:
            raise _Unsuitable from error
        self._packets, self.num_frames = packets, len(packets)
        self._index = self._indices_of_b_frames_last() if self._mpeg4 else self._indices_by_time()
        self._reformatter = VideoReformatter()

    def _indices_of_b_frames_last(self) -> list[int]:
        """Place in display order of each packet: a B frame is shown at once, others one later.

        The times in an .avi file are those of the packets and say nothing about the order.
        """
        kinds = [_vop_type(bytes(packet)) for packet in self._packets]
        if None in kinds or not self._packets:
            raise _Unsuitable
        self._is_b = [kind == "B" for kind in kinds]
        index, waiting, shown = [0] * len(kinds), -1, 0
        for place, is_b in enumerate(self._is_b):
            if not is_b:
                place, waiting = waiting, place
            if place >= 0:
                index[place], shown = shown, shown + 1
        index[waiting] = shown
        return index

    def _indices_by_time(self) -> list[int]:
        times = [packet.pts for packet in self._packets]
        if None in times or len(set(times)) != len(times) or not times:
            raise _Unsuitable
        if any(packet.is_discard or packet.is_corrupt for packet in self._packets):
            raise _Unsuitable
        self._index_at = {pts: index for index, pts in enumerate(sorted(times))}
        return [self._index_at[pts] for pts in times]

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        wanted, left = set(indices), len(indices)
        begin = max(
            place
            for place, packet in enumerate(self._packets)
            if place == 0 or (packet.is_keyframe and self._index[place] <= indices[0])
        )
        self._codec.flush_buffers()
        decode = self._decode_mpeg4 if self._mpeg4 else self._decode_h264
        try:
            for index, frame in decode(begin, wanted):
                if index in wanted:
                    yield self._reformatter.reformat(frame, format="rgb24").to_ndarray()
                    left -= 1
                    if not left:
                        return
        except (av.FFmpegError, KeyError) as error:
            raise _Unsuitable from error
        raise _Unsuitable

    def _decode_mpeg4(self, begin: int, wanted: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        places = [
            place
            for place in range(begin, len(self._packets))
            if not self._is_b[place] or self._index[place] in wanted
        ]
        order = iter(sorted(self._index[place] for place in places))
        for place in [*places, None]:
            packet = None if place is None else self._packets[place]
            for frame in self._codec.decode(packet):
                yield next(order), frame

    def _decode_h264(self, begin: int, wanted: set[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        for place in [*range(begin, len(self._packets)), None]:
            packet = None if place is None else self._packets[place]
            if place is not None:
                self._codec.skip_frame = "DEFAULT" if self._index[place] in wanted else "NONREF"
            for frame in self._codec.decode(packet):
                yield self._index_at[frame.pts], frame


def _one_frame_each(packets: list[av.Packet], stream: av.VideoStream) -> list[av.Packet]:
    """Undo DivX's packing of a B frame into the packet of the frame before it."""
    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    return [out for packet in [*packets, None] for out in unpack.filter(packet) if out.size]


def _vop_type(packet: bytes) -> str | None:
    """The frame type after MPEG-4's VOP start code; None where there is no such code."""
    at = packet.find(b"\x00\x00\x01\xb6")
    return "IPBS"[packet[at + 4] >> 6] if 0 <= at < len(packet) - 4 else None


class _Decord:
    def __init__(self, path: Path) -> None:
        if decord is None:
            raise _Unsuitable
        try:
            # One thread: a loader has a process per core already, and decord's threads hang.
            self._reader = decord.VideoReader(str(path), num_threads=1)
            self.num_frames = len(self._reader)
            self.fps = float(self._reader.get_avg_fps()) or 25.0
        except (decord.DECORDError, RuntimeError) as error:
            raise _Unsuitable from error
        if not self.num_frames:
            raise _Unsuitable

    @property
    def size(self) -> Size:
        height, width, _ = self._reader[0].shape
        return height, width

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        try:
            for start in range(0, len(indices), CHUNK):
                yield from self._reader.get_batch(indices[start : start + CHUNK]).asnumpy()
        except (decord.DECORDError, RuntimeError) as error:
            raise _Unsuitable from error


class _TorchCodec:
    def __init__(self, path: Path) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:
            raise UserError(
                "decoder=torchcodec: torchcodec does not load "
                f"({str(error).splitlines()[0]}); install it and FFmpeg, or take decoder=auto"
            ) from error
        try:
            self._decoder = VideoDecoder(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
            about = self._decoder.metadata
            self.num_frames = about.num_frames
        except (RuntimeError, ValueError) as error:
            raise UserError(f"video {path} cannot be decoded: {error}") from error
        self.size, self.fps = (about.height, about.width), float(about.average_fps or 25)

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        try:
            for start in range(0, len(indices), CHUNK):
                some = list(indices[start : start + CHUNK])
                yield from self._decoder.get_frames_at(some).data.numpy()
        except (RuntimeError, IndexError) as error:
            raise _Unsuitable from error


class _InOrder:
    """PyAV from the first frame on: needs no seek table, which is what broken files lack."""

    def __init__(self, path: Path) -> None:
        self._path, self.size, self.fps = path, (0, 0), 25.0
        reason, stated, count = "no frame in it", 0, 0
        try:
            with av.open(str(path)) as container:
                stream = container.streams.best("video")
                if stream:
                    stated, self.fps = stream.frames, float(stream.average_rate or 25)
                    stream.codec_context.thread_count = 1
                    for frame in container.decode(stream):
                        count, self.size = count + 1, (frame.height, frame.width)
        except (av.FFmpegError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not count:
            raise UserError(
                f"video {path} cannot be decoded ({reason}): "
                "replace the file or take it out of the list"
            )
        self._decodable = count
        self.num_frames = max(count, stated)  # `rgb` tells where it breaks off

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        if max(indices) >= self._decodable:
            raise UserError(
                f"video {self._path} is broken: only {self._decodable} frames can be decoded; "
                "replace the file or take it out of the list"
            )
        wanted, reformatter = set(indices), VideoReformatter()
        with av.open(str(self._path)) as container:
            stream = container.streams.best("video")
            assert stream is not None
            stream.codec_context.thread_count = 1
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    yield reformatter.reformat(frame, format="rgb24").to_ndarray()
                    if index == indices[-1]:
                        return
