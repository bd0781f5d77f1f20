"""What a worker process of the extractor does, video by video.

It writes each video as a part in a working folder; the parent alone takes complete parts over.
Whenever either is killed, a video is there completely or not at all.
"""

import shlex
import shutil
import zipfile
from collections.abc import Collection, Iterable, Sequence
from itertools import count
from pathlib import Path

import cv2

from src.extraction.provenance import source_of
from src.flow.algorithm import FlowAlgorithm
from src.flow.computed import OnTheFlyFlow
from src.flow.settings import FlowSettings
from src.media.image_archives import ArchiveImages
from src.media.images import encode_jpeg, open_images
from src.media.skipped import SOURCES
from src.media.video_file import VideoFile
from src.utils.errors import UserError, first_line

VIDEOS_PER_ARCHIVE = 200
Fields = Iterable[tuple[bytes, bytes]]  # JPEG images u, v in order


class JpegFolders:
    """`<output>/{u,v}/<video>/frame%06d.jpg`.

    `work` is a folder that does not outlive the run, `label` tells its files from other shards'.
    """

    def __init__(self, output: Path, work: Path, label: str) -> None:
        self.output = output

    def videos(self) -> set[str]:
        """Names of the videos that have both components."""
        folders = [self.output / component for component in "uv"]
        u, v = ({e.name for e in f.iterdir()} if f.is_dir() else set() for f in folders)
        return u & v

    def drop(self, videos: Collection[str]) -> None:
        """Delete the flow of videos."""
        for video in videos:
            for component in "vu":  # a video without v counts as not done
                shutil.rmtree(self.output / component / video)

    @staticmethod
    def write(part: Path, video: str, source: str, fields: Fields) -> None:
        """Write a video as two folders and what it was made of, in a worker."""
        for component in "uv":
            (part / component).mkdir(parents=True)
        (part / SOURCES).write_text(source)
        for number, field in enumerate(fields, start=1):
            for component, data in zip("uv", field, strict=True):
                (part / component / f"frame{number:06d}.jpg").write_bytes(data)

    def take(self, part: Path, video: str) -> None:
        """Move the two folders of a video to their places, in the parent."""
        for component in "uv":
            target = self.output / component / video
            target.parent.mkdir(exist_ok=True)
            # Of a run killed between the two there is one: it counts as not done.
            shutil.rmtree(target, ignore_errors=True)
            if component == "v":  # what it was made of is there before it counts as done
                source = self.output / SOURCES / f"{video}.txt"
                source.parent.mkdir(exist_ok=True)
                (part / SOURCES).replace(source)
            (part / component).rename(target)
        part.rmdir()

    def finish(self) -> None:
        """No more videos are to come: nothing is left to do."""


class ZipArchives:
    """`<output>/<label>.zip`, `<label>-2.zip`, ..., with names in them as in folders of JPEG files.

    An archive is written in the working folder and moved when it has enough videos: a run that is
    killed loses the videos of the archive that it was at. `open_images` reads all archives of a
    folder as one.
    """

    def __init__(self, output: Path, work: Path, label: str) -> None:
        self.output, self.label = output, label
        self._draft = work / ".archive"  # no video is called so
        self._archive: zipfile.ZipFile | None = None
        self._count = 0

    def videos(self) -> set[str]:
        """Names of the videos in all archives, of other shards too."""
        return set(open_images(self.output).videos("u"))

    def drop(self, videos: Collection[str]) -> None:
        """Refuse to delete the flow of videos: nothing can be taken out of an archive.

        Raises:
            UserError: names the archives that have it.
        """
        index = open_images(self.output)
        held = [index.images("u", video) for video in videos]
        archives = {one.index.archive.path for one in held if isinstance(one, ArchiveImages)}
        files = [str(path) for path in sorted(archives)]
        raise UserError(
            f"{', '.join(files)} has flow of videos whose files have changed since, such as "
            f"{min(videos)}: {shlex.join(['rm', *files])}, then rerun the same command, which "
            "extracts what was in there again"
        )

    @staticmethod
    def write(part: Path, video: str, source: str, fields: Fields) -> None:
        """Write an archive of one video, in a worker."""
        with zipfile.ZipFile(part, "w") as archive:

            def add(name: str, data: str | bytes) -> None:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o100644 << 16  # readable, once unpacked
                archive.writestr(info, data)

            for number, field in enumerate(fields, start=1):
                for component, data in zip("uv", field, strict=True):
                    add(f"{component}/{video}/frame{number:06d}.jpg", data)
            add(f"{SOURCES}/{video}.txt", source)

    def take(self, part: Path, video: str) -> None:
        """Append a video, in the parent."""
        if self._archive is None:
            self._archive = zipfile.ZipFile(self._draft, "w")
        with zipfile.ZipFile(part) as images:
            for info in images.infolist():
                self._archive.writestr(info, images.read(info))
        part.unlink()
        self._count += 1
        if self._count == VIDEOS_PER_ARCHIVE:
            self.finish()

    def finish(self) -> None:
        """Complete the archive that was begun, and give it the next name that is free."""
        if self._archive is None:
            return
        self._archive.close()
        names = (self.label if n == 1 else f"{self.label}-{n}" for n in count(1))
        paths = (self.output / f"{name}.zip" for name in names)
        self._draft.rename(next(path for path in paths if not path.exists()))
        self._archive, self._count = None, 0


Format = JpegFolders | ZipArchives
FORMATS: dict[str, type[Format]] = {"jpeg": JpegFolders, "zip": ZipArchives}
_worker: tuple[FlowSettings, FlowAlgorithm, type[Format]]  # what this process works with


def setup(
    number: int, settings: FlowSettings, format: type[Format], devices: Sequence[str]
) -> None:
    """Make this process worker `number`, with a device of its own."""
    global _worker
    cv2.setNumThreads(1)  # a process per core already
    algorithm = settings.make(devices[number])
    if settings.uses_torch:
        import torch

        torch.set_num_threads(1)
    _worker = settings, algorithm, format


def extract_video(video: Path, part: Path) -> int:
    """Write one video's flow to `part` in the run's format; returns the number of its frames.

    Raises:
        UserError: the video is broken or has no flow.
    """
    settings, algorithm, format = _worker
    source_file = source_of(video)
    try:
        frames = VideoFile(video)
        source = OnTheFlyFlow(frames, settings, algorithm)
        fields = source.flow(range(source.num_fields))
        encoded = ((encode_jpeg(u), encode_jpeg(v)) for u, v in fields)
        format.write(part, video.stem, source_file, encoded)
        return frames.num_frames
    except (RuntimeError, MemoryError) as error:  # of a network on a GPU, too
        reason = first_line(error)
        raise UserError(f"video {video} has no flow: {reason}") from error
