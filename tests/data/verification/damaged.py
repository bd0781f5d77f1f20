"""Made-up datasets under official names, and every fault that `src.verify_data` can find.

Every video is a stand-in with a few bytes of its own; images are hard links to a few files, so that
a tree of the size of HMDB51 takes a minute and little room:

    python -m tests.data.verification.damaged /tmp/hmdb51 hmdb51 <lists> clip.avi
    python -m src.verify_data data=hmdb51 data.dataset.root=/tmp/hmdb51
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from src.data.splits import NoSuchSplit, read_hmdb51, read_ucf101
from src.data.verification.inspection import Job, VideoChecker
from src.data.verification.manifest import VideoCheck
from src.data.verification.verify import read_lists
from src.data.videos import Split, Video, key_of
from src.media.sources import Size
from src.media.video_file import VideoFile
from src.utils.processes import in_parallel
from tests.builders import moving_texture, write_video

SMALL: Size = (48, 64)
FRAMES = 14
READERS = {"hmdb51": read_hmdb51, "ucf101": read_ucf101}
Names = dict[str, set[str]]  # keys of videos, by the code of their problem


@dataclass
class MadeUp:
    """A dataset of stand-ins.

    Args:
        root: gets videos/ or jpegs/, tvl1_flow/ and parts/, which images are linked to.
        clip: the content of every video file.
        frames: in the clip.
        size: of a frame.
    """

    root: Path
    clip: bytes
    frames: int
    size: Size

    @property
    def flow(self) -> Path:
        return self.root / "tvl1_flow"

    @property
    def jpegs(self) -> Path:
        return self.root / "jpegs"

    def write_clip(self, file: Path, content: bytes | None = None) -> None:
        """Write a video file with an ending of its own, which players skip."""
        content = self.clip if content is None else content
        own = str(file).encode()
        own += b" " * (len(own) % 2)
        if content[:4] == b"RIFF":
            content += b"JUNK" + len(own).to_bytes(4, "little") + own
        else:
            content += (8 + len(own)).to_bytes(4, "big") + b"free" + own
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(content)

    def write_images(self, folder: Path, count: int, size: Size | None = None) -> None:
        """Write images into a folder; the first has a comment of its own, the rest are links."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        size = size or self.size
        for number in range(1, count + 1):
            part = self._part(number, size)
            file = folder / f"frame{number:06d}.jpg"
            if number > 1:
                os.link(part, file)
                continue
            own = str(folder).encode()
            jpeg = part.read_bytes()
            file.write_bytes(
                jpeg[:2] + b"\xff\xfe" + (2 + len(own)).to_bytes(2, "big") + own + jpeg[2:]
            )

    def write_flow(self, name: str, count: int, size: Size | None = None) -> None:
        """Write a video's u and v."""
        for component in "uv":
            self.write_images(self.flow / component / name, count, size)

    def _part(self, number: int, size: Size) -> Path:
        file = self.root / "parts" / f"{size[0]}x{size[1]}_{number}.jpg"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            image = np.random.default_rng(number).integers(0, 255, (4, 5), np.uint8)
            large = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
            file.write_bytes(cv2.imencode(".jpg", large)[1].tobytes())
        return file

    def replace(self, file: Path, content: bytes) -> None:
        """Write a file over, but not those that it is a link to."""
        file.unlink()
        file.write_bytes(content)


def read_small(root: str, split: int = 1, lists: str = "splits", videos: str = "videos") -> Split:
    """Two classes under made-up names with odd characters; splits 1 and 2."""
    if split == 3:
        raise NoSuchSplit("no split 3")
    videos_of = [
        Video(name, Path(root, videos, folder, f"{name}.avi"), label)
        for label, folder in enumerate(("wave", "kick_ball"))
        for name in [f"Film{n}_#(1)[HD]&;!_{folder}_f_cm_np1_ba_med_0" for n in range(14)]
    ]
    order = videos_of if split == 1 else videos_of[::-1]
    return Split(("wave", "kick_ball"), tuple(order[:20]), tuple(order[20:]))


def small_clip(folder: Path, frames: int = FRAMES, size: Size = SMALL) -> bytes:
    """A small MPEG-4 video in an .avi file, as in HMDB51."""
    texture = moving_texture((1, 0.5), frames, size)
    return write_video(folder / f"clip{frames}.avi", texture, codec="mpeg4").read_bytes()


def fill(made_up: MadeUp, videos: Sequence[Video], in_folders: bool = False) -> None:
    """Write the frames and the flow of listed videos, with UCF101's names as they are on disk."""
    for video in videos:
        if in_folders:
            made_up.write_images(made_up.jpegs / video.name, made_up.frames)
        else:
            name = video.path.name.replace("v_HandstandPushups", "v_HandStandPushups")
            made_up.write_clip(video.path.with_name(name))
        made_up.write_flow(video.name, made_up.frames - 1)


def plant(
    made_up: MadeUp, videos: Sequence[Video], in_folders: bool = False, each: int = 1
) -> Names:
    """Damage some of the videos in every way; which of them has which problem."""
    faults = FLOW_FAULTS | (FOLDER_FAULTS if in_folders else FILE_FAULTS)
    spread = videos[:: max(1, len(videos) // (each * len(faults) + 4))]
    planted: Names = {}
    for (code, fault), video in zip(list(faults.items()) * each, spread, strict=False):
        fault(made_up, video)
        planted.setdefault(code.strip(), set()).add(key_of(video))
    assert len(spread) >= each * len(faults) + 4
    # A copy under another name: both are reported.
    one, other, third, fourth = spread[-4:]
    for component in "uv":
        _copy(made_up.flow / component, one.name, other.name)
    if in_folders:
        _copy(made_up.jpegs, third.name, fourth.name)
    else:
        made_up.replace(on_disk(fourth), on_disk(third).read_bytes())
    planted["flow_duplicate"] = {key_of(one), key_of(other)}
    planted["rgb_duplicate"] = {key_of(third), key_of(fourth)}
    return planted


def _copy(folder: Path, name: str, other: str) -> None:
    shutil.rmtree(folder / other)
    shutil.copytree(folder / name, folder / other)


def on_disk(video: Video) -> Path:
    """A video's file, whatever its case."""
    return next(f for f in video.path.parent.iterdir() if f.name.lower() == video.path.name.lower())


# --- faults --------------------------------------------------------------------------------------


def image(folder: Path, number: int) -> Path:
    """The image `number`, from the end if negative."""
    files = sorted(folder.iterdir())
    return files[number if number < 0 else number - 1]


def _cut(content: bytes) -> bytes:
    return content[: len(content) * 8 // 10]


def _remove_flow(made_up: MadeUp, video: Video) -> None:
    for component in "uv":
        shutil.rmtree(made_up.flow / component / video.name)


def _each(component_of: str, change: Callable[[MadeUp, Path], None]) -> Callable[..., None]:
    def fault(made_up: MadeUp, video: Video) -> None:
        for component in component_of:
            change(made_up, made_up.flow / component / video.name)

    return fault


def _drop_last(count: int) -> Callable[[MadeUp, Path], None]:
    def change(made_up: MadeUp, folder: Path) -> None:
        for file in sorted(folder.iterdir())[-count:]:
            file.unlink()

    return change


def _in_last(content: Callable[[bytes], bytes]) -> Callable[[MadeUp, Path], None]:
    def change(made_up: MadeUp, folder: Path) -> None:
        file = image(folder, -1)
        made_up.replace(file, content(file.read_bytes()))

    return change


def _gap(_: MadeUp, folder: Path) -> None:
    image(folder, 4).unlink()


def _other_last(made_up: MadeUp, folder: Path) -> None:
    spare = made_up.root / "parts" / "other"
    made_up.write_images(spare, 1, (made_up.size[0] + 16, made_up.size[1] + 16))
    made_up.replace(image(folder, -1), image(spare, 1).read_bytes())


def _sized(change: Callable[[Size], Size]) -> Callable[[MadeUp, Video], None]:
    def fault(made_up: MadeUp, video: Video) -> None:
        made_up.write_flow(video.name, made_up.frames - 1, change(made_up.size))

    return fault


def _v_of_another_size(made_up: MadeUp, video: Video) -> None:
    size = (made_up.size[0] + 16, made_up.size[1])
    made_up.write_images(made_up.flow / "v" / video.name, made_up.frames - 1, size)


def _short(made_up: MadeUp, video: Video) -> None:
    made_up.write_clip(on_disk(video), small_clip(made_up.root / "parts", 6, made_up.size))
    made_up.write_flow(video.name, 5)


def _short_folder(made_up: MadeUp, video: Video) -> None:
    made_up.write_images(made_up.jpegs / video.name, 6)
    made_up.write_flow(video.name, 5)


def _not_an_image(_: bytes) -> bytes:
    return b"this is no picture \xff\xd9"


FLOW_FAULTS: dict[str, Callable[[MadeUp, Video], None]] = {
    "flow_missing": _remove_flow,
    "flow_empty": _each("u", _in_last(lambda _: b"")),
    "flow_broken": _each("v", _in_last(_not_an_image)),
    "flow_truncated": _each("u", _in_last(_cut)),
    "flow_gap": _each("uv", _gap),
    "flow_uv": _each("v", _drop_last(1)),
    "flow_uv ": _v_of_another_size,
    "flow_sizes": _each("uv", _other_last),
    "flow_count": _each("uv", _drop_last(3)),
    "flow_uneven": _each("uv", _drop_last(2)),
    "flow_aspect": _sized(lambda size: (size[0], size[1] - 8)),
    "flow_scale": _sized(lambda size: (size[0] // 2, size[1] // 2)),
}


def _file(content: Callable[[bytes], bytes]) -> Callable[[MadeUp, Video], None]:
    return lambda made_up, video: made_up.replace(on_disk(video), content(made_up.clip))


def _truncated(made_up: MadeUp, video: Video) -> None:
    content = small_clip(made_up.root / "parts", made_up.frames, made_up.size)
    made_up.replace(on_disk(video), _cut(content))


FILE_FAULTS: dict[str, Callable[[MadeUp, Video], None]] = {
    "rgb_missing": lambda _, video: on_disk(video).unlink(),
    "rgb_empty": _file(lambda _: b""),
    "rgb_broken": _file(lambda _: b"<html>404</html>"),
    "rgb_truncated": _truncated,
    "short": _short,
}


def _frames(change: Callable[[MadeUp, Path], None]) -> Callable[[MadeUp, Video], None]:
    return lambda made_up, video: change(made_up, made_up.jpegs / video.name)


FOLDER_FAULTS: dict[str, Callable[[MadeUp, Video], None]] = {
    "rgb_missing": _frames(lambda _, folder: shutil.rmtree(folder)),
    "rgb_empty": _frames(_in_last(lambda _: b"")),
    "rgb_broken": _frames(_in_last(_not_an_image)),
    "rgb_truncated": _frames(_in_last(_cut)),
    "rgb_gap": _frames(_gap),
    "rgb_sizes": _frames(_other_last),
    "short": _short_folder,
}


# --- what happens in worker processes ------------------------------------------------------------


class CrashingChecker(VideoChecker):
    """Dies of Film5 of the first class."""

    def __call__(self, job: Job) -> VideoCheck:
        modality, video = job
        if modality == "rgb" and "Film5_" in video.name and video.label == 0:
            os._exit(3)
        return super().__call__(job)


def crash_hang_or_double(job: int | str) -> int:
    """What the job says."""
    if job == "crash":
        os._exit(3)
    if job == "hang":
        time.sleep(60)
    return 2 * int(job)


def slow(*arguments: Any) -> Any:
    """As `in_parallel`, with time to stop it."""
    for result in in_parallel(*arguments):
        time.sleep(0.1)
        yield result


if __name__ == "__main__":
    place, kind, lists, stand_in, *options = sys.argv[1:]
    shutil.copytree(lists, Path(place) / "splits")
    video = VideoFile(stand_in)
    size = next(video.rgb([0])).shape[:2]
    dataset = MadeUp(Path(place), Path(stand_in).read_bytes(), video.num_frames, size)
    listed = read_lists(lambda split: READERS[kind](place, split, any_size=True)).videos
    fill(dataset, listed, "folders" in options)
    planted = plant(dataset, listed, "folders" in options) if "faults" in options else {}
    for code, keys in planted.items():
        print(code, *sorted(keys))
