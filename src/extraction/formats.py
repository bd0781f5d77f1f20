"""How extracted images lie in a folder: as JPEG files in folders, or in zip archives of them.

A worker writes each video as a part in a working folder; the parent alone takes complete parts
over. Whenever either is killed, a video is there completely or not at all.
"""

import shlex
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from src.media.image_archives import ArchiveImages
from src.media.images import open_images
from src.media.skipped import SOURCES
from src.utils.errors import UserError

VIDEOS_PER_ARCHIVE = 200
Add = Callable[[str, int, bytes], None]  # an image: its component, number from 1, JPEG content


class JpegFolders:
    """`<output>/<component>/<video>/frame%06d.jpg`.

    Args:
        output: the folder.
        components: u and v, or rgb.
        work: a folder for parts, which does not outlive the run.
        label: tells its files from other shards'.
    """

    def __init__(self, output: Path, components: Sequence[str], work: Path, label: str) -> None:
        self.output, self.components, self.work = output, components, work

    def videos(self) -> set[str]:
        """Names of the videos that have all components."""
        folders = [self.output / component for component in self.components]
        names = [{entry.name for entry in f.iterdir()} if f.is_dir() else set() for f in folders]
        return set.intersection(*names)

    def drop(self, videos: Collection[str]) -> None:
        """Delete the images of videos."""
        for video in videos:
            for component in reversed(self.components):  # without the last it counts as not done
                shutil.rmtree(self.output / component / video)

    @staticmethod
    @contextmanager
    def part(path: Path, components: Sequence[str], video: str, source: str) -> Iterator[Add]:
        """Write a video as a folder for each component, and what it was made of, in a worker."""
        shutil.rmtree(path, ignore_errors=True)
        for component in components:
            (path / component).mkdir(parents=True)
        (path / SOURCES).write_text(source)

        def add(component: str, number: int, data: bytes) -> None:
            (path / component / f"frame{number:06d}.jpg").write_bytes(data)

        yield add

    def take(self, part: Path, video: str) -> None:
        """Move the folders of a video to their places, in the parent."""
        for component in self.components:
            target = self.output / component / video
            target.parent.mkdir(exist_ok=True)
            # Of a run killed between two there is one: it counts as not done.
            shutil.rmtree(target, ignore_errors=True)
            if component == self.components[-1]:  # what it was made of is there before it counts
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
    folder as one. Arguments are those of `JpegFolders`.
    """

    def __init__(self, output: Path, components: Sequence[str], work: Path, label: str) -> None:
        self.output, self.components, self.work, self.label = output, components, work, label
        self._draft = work / ".archive"  # no video is called so
        self._archive: zipfile.ZipFile | None = None
        self._count = 0

    def videos(self) -> set[str]:
        """Names of the videos in all archives, of other shards too."""
        return set(open_images(self.output).videos(self.components[0]))

    def drop(self, videos: Collection[str]) -> None:
        """Refuse to delete the images of videos: nothing can be taken out of an archive.

        Raises:
            UserError: names the archives that have it.
        """
        index = open_images(self.output)
        held = [index.images(self.components[0], video) for video in videos]
        archives = {
            images.index.archive.path for images in held if isinstance(images, ArchiveImages)
        }
        files = [str(path) for path in sorted(archives)]
        raise UserError(
            f"{', '.join(files)} has images of videos whose files have changed since, such as "
            f"{min(videos)}: {shlex.join(['rm', *files])}, then rerun the same command, which "
            "extracts what was in there again"
        )

    @staticmethod
    @contextmanager
    def part(path: Path, components: Sequence[str], video: str, source: str) -> Iterator[Add]:
        """Write an archive of one video, in a worker."""
        with zipfile.ZipFile(path, "w") as archive:

            def write(name: str, data: str | bytes) -> None:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o100644 << 16  # readable, once unpacked
                archive.writestr(info, data)

            def add(component: str, number: int, data: bytes) -> None:
                write(f"{component}/{video}/frame{number:06d}.jpg", data)

            yield add
            write(f"{SOURCES}/{video}.txt", source)

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
