"""A video as its decoder gives it: which frames count, and how an image is turned upright.

Every reader of videos sees them by these functions. A video's frames are those that decode after
its edit list, from the first key frame on; what a header states is no more than a hint.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

from src.media.sources import LIMIT, Uint8, most_pixels

av.logging.set_level(av.logging.PANIC)

# Titles in old files are not in UTF-8. From 19 on PyAV puts up with them by itself.
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
# Formats of one video. Others, such as playlists, would have FFmpeg open what they name.
_FORMATS = (
    "apng,asf,av1,avi,dv,flv,gif,h261,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,"
    "mpegvideo,mpjpeg,mxf,nut,obu,ogg,rm,vc1,wtv,yuv4mpegpipe"
)
_UPRIGHT = np.eye(2)
_ONE = 2**16  # of a display matrix, in 16.16 fixed point


@contextmanager
def open_video(source: str, **options: Any) -> Iterator[av.VideoStream]:
    """Open the video of a file, URL or device; `options` as of `av.open`.

    Raises:
        av.FFmpegError: it cannot be opened.
        ValueError: there is no video in it, one of an unknown codec or with too large frames, or it
            is a list of other files.
    """
    bounds = {"max_pixels": str(most_pixels())}
    formats = {"format_whitelist": _FORMATS} if Path(source).is_file() else {}
    try:
        container = av.open(source, "r", options=bounds | formats, **_LENIENT, **options)
    except av.ArgumentError as error:
        raise ValueError("no format of a single video") from error
    with container:
        stream = container.streams.best("video")  # decord's choice among several, too
        if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
            raise ValueError("no video in it")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > most_pixels():
            raise ValueError(
                f"frames of {width}x{height} pixels, {LIMIT}={most_pixels()} is the most"
            )
        stream.codec_context.options = bounds  # their size may change on the way
        # A loader has a process per core already, and with more PyAV may hang on a broken file.
        stream.codec_context.thread_count = 1
        yield stream


def rate_of(stream: av.VideoStream) -> Fraction:
    """Frames per second as the container states them, 25 where it does not."""
    return Fraction(stream.average_rate or 25)


def packets_of(stream: av.VideoStream, unpack: bool = False) -> Iterator[av.Packet]:
    """The packets of a video that have content, from its first key frame on.

    Some decoders make grey pictures of what comes before. Packets that an edit list hides are among
    them: others refer to theirs.

    Args:
        stream: of `open_video`, read from its beginning.
        unpack: give each frame of MPEG-4 a packet, undoing DivX's packing of a B frame into the
            packet of the frame before it.
    """
    packets: Iterator[av.Packet] = (
        packet for packet in stream.container.demux(stream) if packet.size
    )
    if unpack and stream.codec_context.name == "mpeg4":
        bits = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        filtered = (out for packet in chain(packets, [None]) for out in bits.filter(packet))
        packets = (packet for packet in filtered if packet.size)
    begun = False
    for packet in packets:
        begun = begun or _is_key(packet, stream)
        if begun:
            yield packet


def frames_of(stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The frames of a video, in the order in which they are shown."""
    for packet in packets_of(stream):
        yield from stream.codec_context.decode(packet)
    for frame in stream.codec_context.decode(None):  # those that the decoder has held back
        frame.time_base = stream.time_base
        yield frame


def image_of(frame: av.VideoFrame, reformatter: VideoReformatter) -> Uint8:
    """A frame as RGB (H, W, 3), upright."""
    return upright(reformatter.reformat(frame, format="rgb24").to_ndarray(), turn_of(frame))


def turn_of(frame: av.VideoFrame) -> Any:
    """How a frame is to be turned or mirrored: the display matrix's (2, 2), None for not at all.

    The place (x, y) of a pixel goes to (x, y) @ matrix.
    """
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    linear = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2] / _ONE
    size = np.sqrt(abs(np.linalg.det(linear)))
    if size == 0 or np.allclose(linear / size, _UPRIGHT, atol=0.01):
        return None
    return linear / size


def is_turned(path: Path) -> bool:
    """Whether a file's first frame is turned or mirrored; not, if it has none that decodes."""
    with suppress(av.FFmpegError, ValueError), open_video(str(path)) as stream:
        return any(turn_of(frame) is not None for frame in islice(frames_of(stream), 1))
    return False


def upright(image: Uint8, turn: Any) -> Uint8:
    """Turn and mirror an image (H, W, 3) by `turn_of` its frame, as ffmpeg's autorotate does.

    By another angle than a right one the image keeps its size, and its corners are cut.
    """
    if turn is None:
        return image
    quarter = np.rint(turn)
    if np.allclose(quarter, turn, atol=0.02):
        if quarter[0, 0] == 0:
            image = image.swapaxes(0, 1)
        right, down = quarter.sum(0)  # where each axis of the image ends up
        return np.ascontiguousarray(image[:: int(down), :: int(right)])
    height, width = image.shape[:2]
    center = np.array([width - 1, height - 1]) / 2
    about_center = np.column_stack([turn.T, center - center @ turn])
    return cv2.warpAffine(image, about_center, (width, height), flags=cv2.INTER_LINEAR)


def breaks_off(path: Path, stream: av.VideoStream, packets: int) -> bool:
    """Whether a file ends before what it states: fewer packets, and bytes that are not there.

    Fewer packets alone mean nothing: an edit list leaves some out, a camera that drops a frame
    leaves an empty one.
    """
    if packets >= stream.frames:
        return False
    size = path.stat().st_size
    if any(entry.pos + entry.size > size for entry in stream.index_entries):
        return True
    with path.open("rb") as file:
        head = file.read(8)
    return head[:4] == b"RIFF" and int.from_bytes(head[4:], "little") + 8 > size


def vop_type(content: bytes) -> str:
    """The type of a frame after MPEG-4's VOP start code: I, P, B or S; "" where there is none."""
    at = content.find(b"\x00\x00\x01\xb6") + 4
    if at < 4 or len(content) <= at + 4:
        return ""  # no frame in it, or a note that the frame is skipped
    return "IPBS"[content[at] >> 6]


def _is_key(packet: av.Packet, stream: av.VideoStream) -> bool:
    if stream.codec_context.name == "mpeg4":  # an .avi file's index may say anything
        return vop_type(bytes(packet)) == "I"
    return packet.is_keyframe
