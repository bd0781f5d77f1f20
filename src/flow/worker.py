"""What a worker process of the extractor does, video by video."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from src.data.images import encode_jpeg
from src.data.sources import Uint8
from src.data.video_file import VideoFile
from src.errors import UserError
from src.flow.algorithms import FlowAlgorithm
from src.flow.computed import ComputedFlow
from src.flow.formats import Format
from src.flow.progress import Tally
from src.flow.settings import FlowSettings
from src.flow.zip_writer import Image


@dataclass(frozen=True)
class _Worker:
    settings: FlowSettings
    algorithm: FlowAlgorithm
    format: type[Format]
    tally: Tally


_worker: _Worker


def setup(
    number: int,
    settings: FlowSettings,
    format: type[Format],
    devices: Sequence[str],
    tallies: Sequence[Tally],
) -> None:
    """Make this process worker `number`, with a device and a tally of its own."""
    global _worker
    cv2.setNumThreads(1)  # a process per core already
    algorithm = settings.make(devices[number])
    if settings.uses_torch:
        import torch

        torch.set_num_threads(1)
    _worker = _Worker(settings, algorithm, format, tallies[number])


def extract_video(video: Path, size: int, part: Path) -> tuple[int, list[Image]]:
    """Write one video's flow to `part`; returns the number of its frames, and what `take` needs.

    Args:
        video: the file.
        size: its bytes, for the estimate of the time left.
        part: where `Format.write` puts it.

    Raises:
        UserError: the video is broken or has no flow.
    """
    tally, settings = _worker.tally, _worker.settings
    tally.open(size)
    try:
        frames = VideoFile(video)
        source = ComputedFlow(frames, _worker.algorithm, settings.short_side, settings.bound)
        fields = tally.count(source.flow(range(source.num_fields)), frames.num_frames)
        return frames.num_frames, _worker.format.write(part, video.stem, _encoded(fields))
    except (RuntimeError, MemoryError) as error:  # of a network on a GPU, too
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"video {video} has no flow: {reason}") from error
    finally:
        tally.close()


def _encoded(fields: Iterator[tuple[Uint8, Uint8]]) -> Iterator[tuple[bytes, bytes]]:
    for u, v in fields:
        yield encode_jpeg(u), encode_jpeg(v)
