"""Video files as cameras, phones and cutting tools leave them, without ffmpeg's command."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from src.media.decoding import vop_type
from tests.builders import moving_texture

FRAMES, GOP = 24, 6
# What a display matrix's (2, 2) does to an image (H, W, 3); the place (x, y) goes to (x, y) @ it.
TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "quarter clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "half": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "quarter against the clock": ((0, -1, 1, 0), lambda image: np.rot90(image)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "mirrored and turned": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "mirrored and turned back": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
}
_HEADER = struct.Struct("<4sI")


def write(path: Path, codec: str = "mpeg4") -> Path:
    """A clip of a moving texture, with a key frame every `GOP` frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options={"g": str(GOP)})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for image in moving_texture((1.0, 0.5), FRAMES, (48, 64)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def turned(path: Path, turn: Sequence[float], codec: str = "mpeg4") -> Path:
    """The same clip in an .mp4 file that says how to turn it."""
    content = bytearray((path if path.exists() else write(path, codec)).read_bytes())
    a, b, c, d = (round(value * 2**16) for value in turn)
    place = content.index(b"tkhd") + 44  # of the display matrix in a track's header
    struct.pack_into(">9i", content, place, a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(content)
    return path


def cut_without_encoding(path: Path, first: int) -> Path:
    """From a frame on, as `ffmpeg -ss .. -c copy` does: an edit list hides what is before it."""
    whole = write(path.with_name(f"whole_{path.name}"))
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        step = 1 / Fraction(25) / source.streams.video[0].time_base
        begin = first - first % GOP  # the key frame before
        for number, packet in enumerate(source.demux(video=0)):
            if number >= begin and packet.size:
                packet.pts -= int(first * step)
                packet.dts -= int(first * step)
                packet.stream = stream
                target.mux(packet)
    whole.unlink()
    return path


def dropped_frames(path: Path) -> Path:
    """An .avi file in which a camera has left every seventh chunk without content."""
    return _rewrite(path, lambda n, chunk: [chunk, b""] if n % 7 == 5 else [chunk])


def begins_between_key_frames(path: Path) -> Path:
    """An .avi file that was cut anywhere."""
    return _rewrite(path, lambda n, chunk: [chunk] if n >= 2 else [])


def stream_joined_late(path: Path) -> Path:
    """A transport stream whose beginning nobody has recorded."""
    whole = write(path.with_suffix(".ts"), "mpeg2video").read_bytes()
    packet = 188
    tables, middle = whole[: 3 * packet], len(whole) // packet // 3 * packet
    path.with_suffix(".ts").unlink()
    path.write_bytes(tables + whole[middle:])
    return path


# By the file: what makes it, and which frames of the clip are then shown.
ODD: dict[str, tuple[Callable[[Path], Path], range]] = {
    "cut_at_a_key_frame.mp4": (partial(cut_without_encoding, first=GOP), range(GOP, FRAMES)),
    "cut_between.mp4": (partial(cut_without_encoding, first=9), range(9, FRAMES)),
    "dropped_frames.avi": (dropped_frames, range(FRAMES)),
    "no_first_key_frame.avi": (begins_between_key_frames, range(GOP, FRAMES)),
}


def _rewrite(path: Path, change: Callable[[int, bytes], list[bytes]]) -> Path:
    """An MPEG-4 .avi file with other chunks, and an index and counts that fit them."""
    data = write(path).read_bytes()
    movi = data.index(b"movi")
    size = int.from_bytes(data[movi - 4 : movi], "little")
    at, end, chunks = movi + 4, movi + size, []
    while at < end:
        _, length = _HEADER.unpack_from(data, at)
        chunks.append(data[at + _HEADER.size : at + _HEADER.size + length])
        at += _HEADER.size + length + length % 2
    body, index, count = b"movi", b"", 0
    for number, chunk in enumerate(chunks):
        for content in change(number, chunk):
            key = 0x10 if content and vop_type(content) == "I" else 0
            index += struct.pack("<4sIII", b"00dc", key, len(body), len(content))
            body += _HEADER.pack(b"00dc", len(content)) + content + b"\0" * (len(content) % 2)
            count += 1
    head = bytearray(data[: movi - 8])
    for name, place in ((b"avih", 24), (b"strh", 40)):
        struct.pack_into("<I", head, head.index(name) + place, count)
    lists = _HEADER.pack(b"LIST", len(body)) + body + _HEADER.pack(b"idx1", len(index)) + index
    whole = bytes(head) + lists
    path.write_bytes(whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:])
    return path
