"""Frames of video files: exactly those of a full decoding, without decoding everything.

PyAV reads a file's packets and decodes each frame from the last key frame before it on, leaving out
those to which no other refers and that nobody asked for. What a file does not say clearly, such as
the order of its frames, makes it read frame by frame from the beginning instead.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from src.media.decoding import (
    breaks_off,
    frames_of,
    image_of,
    open_video,
    packets_of,
    rate_of,
    turn_of,
    vop_type,
)
from src.media.sources import Uint8, in_order
from src.utils.errors import UserError, first_line

DECODERS = ("auto", "pyav", "decord")
LARGE = 64 * 2**20  # bytes; PyAV holds a file's packets in memory
_ONE_FRAME_PER_PACKET = ("mpeg4", "h264", "hevc", "mpeg2video", "vp9", "libdav1d", "mjpeg")
CHUNK = 8  # frames that decord decodes at once


class _Unsuitable(Exception):
    """This reader cannot read this file; another one may."""


class VideoFile:
    """The frames of a video file, upright.

    Keep it no longer than one clip needs: a reader holds the decoder's memory, and it must not
    cross a process boundary. `decoder` tells which library reads the file, `fps` is what the
    container states, 25 where it does not. `stated` is how many frames it states, 0 where it does
    not: those that its edit list hides, or that a camera has dropped, among them. If the file is
    `truncated`, `num_frames` is what it states, and `rgb` tells where it breaks off.

    Args:
        path: the file.
        decoder: auto, decord or pyav.

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
        self.stated, self.truncated = self._reader.stated, self._reader.truncated

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
            # Decoding in order may continue where a reader that jumps stops.
            self._reader, self.decoder = _InOrder(self.path), "pyav"
            yield from self._reader.rgb(indices[read:])

    def _open(self, decoder: str) -> "tuple[_Packets | _Decord | _InOrder, str]":
        if decoder == "decord":
            with suppress(_Unsuitable):
                return _Decord(self.path), decoder
        with suppress(_Unsuitable):
            return _Packets(self.path), "pyav"
        return _InOrder(self.path), "pyav"


class _Packets:
    """PyAV on a file's packets: decodes from a key frame, without frames that nobody needs.

    The decoder itself knows which frames those are (AVDISCARD_NONREF: no other frame refers to
    them), so the frames that come out are those of a full decoding.
    """

    truncated = False

    def __init__(self, path: Path) -> None:
        self._path, self._held = path, []
        try:
            self._open = ExitStack()  # the codec needs the file
            self._stream = stream = self._open.enter_context(open_video(str(path)))
            self._codec, self.fps = stream.codec_context, float(rate_of(stream))
            self.stated = stream.frames
            if self._codec.name not in _ONE_FRAME_PER_PACKET:
                raise _Unsuitable
            hold = path.stat().st_size <= LARGE
            self._keys: list[bool] = []
            kinds, times = [], []
            for packet in packets_of(stream, unpack=True):
                if packet.is_discard or packet.is_corrupt:
                    raise _Unsuitable
                self._keys.append(packet.is_keyframe)
                times.append(packet.pts)
                if self._codec.name == "mpeg4":
                    kinds.append(vop_type(bytes(packet)))
                if hold:
                    self._held.append(packet)
            if not times or not all(kinds) or breaks_off(path, stream, len(times)):
                raise _Unsuitable
        except (av.FFmpegError, ValueError) as error:
            raise _Unsuitable from error
        if kinds:
            self._keys = [kind == "I" for kind in kinds]
            self._index = _indices_of_b_frames_last(kinds)
        else:
            self._index = _indices_by_time(times, bool(self._codec.has_b_frames))
        self.num_frames = len(self._index)
        self._places = np.argsort(self._index)  # of the packet of each frame
        begins = np.zeros(self.num_frames, int)
        for place in np.flatnonzero(self._keys):
            begins[self._index[place]] = place
        # of the packet of the last key frame that is not shown after each frame
        self._begins = np.maximum.accumulate(begins)
        self._reformatter, self._turn = VideoReformatter(), 0

    def can_jump(self) -> bool:
        """Whether nothing after a key frame refers to anything before, and times are exact."""
        if self._codec.name not in ("h264", "vp9") or self._stream.container.format.name not in (
            "mov,mp4,m4a,3gp,3g2,mj2",
            "matroska,webm",
        ):
            return False
        try:
            first = next(self._decode([0]), None)
        except (av.FFmpegError, ValueError) as error:
            raise _Unsuitable from error
        if first is None or turn_of(first) is not None:
            return False
        if self._codec.name == "vp9":
            return True
        return all(_has_idr(bytes(p)) for p in self._held or self._all() if p.is_keyframe)

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        self._turn = turn = self._turn + 1
        done = 0
        try:
            for frame in self._decode(indices):
                if frame.pts == indices[done]:
                    yield image_of(frame, self._reformatter)
                    done += 1
                    if done == len(indices):
                        return
                    if turn != self._turn:
                        raise _Unsuitable  # somebody else has used the decoder meanwhile
        except (av.FFmpegError, TypeError, ValueError) as error:
            raise _Unsuitable from error
        raise _Unsuitable  # the decoder could not make one of the frames

    def _decode(self, indices: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Those frames among others, in order; `pts` is their index.

        Each is decoded from the last key frame before it on: what lies between one frame and the
        key frame of the next is left out.
        """
        asked, packets, at = set(indices), iter(self._held or self._all()), 0
        for begin, end in self._spans(indices):
            self._codec.flush_buffers()
            for packet in islice(packets, begin - at, end - at):
                packet.pts = index = self._index[begin]
                self._codec.skip_frame = "DEFAULT" if index in asked else "NONREF"
                yield from self._codec.decode(packet)
                begin += 1
            at = end
            yield from self._codec.decode(None)

    def _spans(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """The packets that ascending frames are decoded from, from a key frame to the last needed.

        Where the next frame's key frame has been decoded anyway, there is nothing to leave out.
        """
        spans: list[tuple[int, int]] = []
        for index in indices:
            begin, end = int(self._begins[index]), int(self._places[index]) + 1
            if spans and begin <= spans[-1][1]:
                begin, before = spans.pop()
                end = max(end, before)
            spans.append((begin, end))
        return spans

    def _all(self) -> Iterator[av.Packet]:
        with open_video(str(self._path)) as stream:
            yield from packets_of(stream, unpack=True)


def _has_idr(packet: bytes) -> bool:
    """Whether an H.264 packet of an .mp4 or .mkv file holds a picture that begins anew."""
    at = 0
    while at + 4 < len(packet):
        if packet[at + 4] & 31 in (1, 5):  # slice of another picture, of an IDR picture
            return packet[at + 4] & 31 == 5
        at += 4 + int.from_bytes(packet[at : at + 4], "big")
    return False


def _indices_of_b_frames_last(kinds: Sequence[str]) -> list[int]:
    """Place in display order of each packet: a B frame is shown at once, others one later.

    The times in an .avi file are those of the packets and say nothing about the order.
    """
    if kinds[0] == "B" or kinds[1:2] == ["B"]:
        raise _Unsuitable  # a B frame without both frames that it lies between
    index, waiting, shown = [0] * len(kinds), -1, 0
    for place, kind in enumerate(kinds):
        if kind != "B":
            place, waiting = waiting, place
        if place >= 0:
            index[place], shown = shown, shown + 1
    index[waiting] = shown
    return index


def _indices_by_time(times: Sequence[int | None], reorders: bool) -> list[int]:
    """Place in display order of each packet, from their times."""
    known = [time for time in times if time is not None]
    ascending = sorted(set(known))
    if len(ascending) != len(times) or known[0] != ascending[0]:
        raise _Unsuitable
    if reorders and known == ascending:
        raise _Unsuitable  # an .avi file with B frames: the times are those of decoding
    index_at = {time: index for index, time in enumerate(ascending)}
    return [index_at[time] for time in known]


class _Decord:
    """decord, where it finds its frames: it jumps to key frames, and expects a new beginning there.

    It also turns what was filmed upright but never mirrors it, and miscounts in containers with
    vague times.
    """

    truncated = False

    def __init__(self, path: Path) -> None:
        try:
            import decord
        except ImportError as error:  # no wheel for this platform: PyAV reads everything
            raise _Unsuitable from error
        decord.logging.set_level(decord.logging.FATAL)
        self._errors = (decord.DECORDError, RuntimeError)
        about = _Packets(path)
        if not about.can_jump():
            raise _Unsuitable
        self.num_frames, self.fps, self.stated = about.num_frames, about.fps, about.stated
        try:
            # One thread: a loader has a process per core already, and decord's threads hang.
            self._reader = decord.VideoReader(str(path), num_threads=1)
        except self._errors as error:
            raise _Unsuitable from error
        if len(self._reader) != self.num_frames:
            raise _Unsuitable

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        try:
            for start in range(0, len(indices), CHUNK):
                yield from self._reader.get_batch(indices[start : start + CHUNK]).asnumpy()
        except self._errors as error:
            raise _Unsuitable from error


class _InOrder:
    """PyAV from the first frame on: needs no seek table, which is what broken files lack."""

    def __init__(self, path: Path) -> None:
        self._path, self._decodable, self.stated, packets = path, 0, 0, 0
        self.truncated, cause = False, None
        try:
            with open_video(str(path)) as stream:
                self.stated, self.fps = stream.frames, float(rate_of(stream))
                try:
                    for packet in packets_of(stream):
                        packets += not packet.is_discard
                        self._decodable += len(stream.codec_context.decode(packet))
                    self._decodable += len(stream.codec_context.decode(None))
                finally:
                    self.truncated = breaks_off(path, stream, packets)
        except (av.FFmpegError, ValueError) as error:
            cause = error
        if not self._decodable:
            reason = first_line(cause) if cause else "no frame in it"
            raise UserError(
                f"video {path} cannot be decoded ({reason}): "
                "replace the file or take it out of the list"
            ) from cause
        # Where the container counts them, each packet is a frame.
        expected = self.stated if cause or self.truncated else min(packets, self.stated)
        self.num_frames = max(self._decodable, expected)

    def rgb(self, indices: Sequence[int]) -> Iterator[Uint8]:
        if max(indices) >= self._decodable:
            raise UserError(
                f"video {self._path} is broken: only {self._decodable} frames can be decoded; "
                "replace the file or take it out of the list"
            )
        asked, reformatter, reason = set(indices), VideoReformatter(), "it has become shorter"
        cause: Exception | None = None
        try:
            with open_video(str(self._path)) as stream:
                for index, frame in enumerate(frames_of(stream)):
                    if index in asked:
                        yield image_of(frame, reformatter)
                        if index == indices[-1]:
                            return
        except (av.FFmpegError, ValueError) as error:
            reason, cause = first_line(error), error
        raise UserError(f"video {self._path} changed while it was read ({reason})") from cause
