"""What `src.verify_data` has found out about a dataset: its own memory, and what training asks.

The manifest has a line of JSON for the frames and one for the flow of every listed video. A line is
written as soon as a video has been checked, so that a killed run loses none but the last.
"""

import json
import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from src.data.dataset import COUNT_TOLERANCE
from src.data.stores import VIDEOS
from src.data.videos import Video, Videos, key_of
from src.media.sources import Size
from src.utils.errors import UserError
from src.utils.files import atomic_write

log = logging.getLogger(__name__)
VERSION = 4  # of the format, and of what is looked at
_ROUNDING = 2  # pixels by which the longer side of resized flow may be off
Details = dict[str, dict[str, str]]  # by code and video: what exactly
Modality = Literal["rgb", "flow"]


@dataclass(frozen=True)
class Problem:
    """A kind of problem."""

    title: str
    hint: str  # what to do; see `report`
    fatal: bool = True  # whether a video with it cannot be trained on


_SKIP = "or train without them: data.videos.missing=skip"
_FRAMES = f"get them again (data/README.md says where from), {_SKIP}"
_FLOW = f"delete what is there of them in {{flow}}, then {{extract}}, {_SKIP}"
_EXTRACT = f"{{extract}}, {_SKIP}"

# The beginning of a code says which network it concerns: one that sees "rgb", or "flow".
PROBLEMS = {
    "rgb_missing": Problem("no frames", _FRAMES),
    "rgb_misplaced": Problem("frames not where the lists say", "sh {moves} moves them there"),
    "rgb_empty": Problem("files of frames without content", _FRAMES),
    "rgb_broken": Problem("frames cannot be decoded", _FRAMES),
    "rgb_truncated": Problem("files of frames that break off", _FRAMES),
    "rgb_gap": Problem(
        "frames that are not numbered one after the other", f"rename them, or {_FRAMES}"
    ),
    "rgb_crash": Problem(
        "the decoder crashed or hung", f"try another data.videos.decoder, {_SKIP}"
    ),
    "flow_missing": Problem("no flow", _EXTRACT),
    "flow_empty": Problem("files of flow without content", _FLOW),
    "flow_broken": Problem("flow cannot be decoded", _FLOW),
    "flow_truncated": Problem("files of flow that break off", _FLOW),
    "flow_gap": Problem("flow that is not numbered one after the other", _FLOW),
    "flow_source": Problem("flow of another file than the video is now", _EXTRACT),
    "flow_single": Problem(
        "no flow, which there is none of in a single frame", f"take it out of the lists, {_SKIP}"
    ),
    "flow_crash": Problem("the decoder of flow crashed or hung", _FLOW),
    "flow_uv": Problem("u and v differ in number or size", _FLOW),
    "flow_sizes": Problem("flow changes its size within a video", _FLOW),
    "flow_count": Problem("flow of another video: it does not fit the number of frames", _FLOW),
    "rgb_stated": Problem(
        "another number of frames than the file states",
        "nothing, if it was cut or its camera dropped frames: all that is shown is used",
        False,
    ),
    "rgb_single": Problem(
        "a single frame, of which there is no flow",
        "nothing, if no network sees flow; else take it out of the lists",
        False,
    ),
    "rgb_sizes": Problem("frames change their size within a video", "nothing: cut to fit", False),
    "flow_uneven": Problem(
        "not one flow field fewer than frames",
        "nothing: released flow is like that, frames beyond the shorter are not used",
        False,
    ),
    "flow_aspect": Problem(
        "flow of another shape than the frames, as from extractors with a fixed size",
        "nothing, if it is that: both are cut by fractions of their sides; else: " + _FLOW,
        False,
    ),
    "flow_scale": Problem(
        "flow of another size than most, so other units", f"to have all alike: {_FLOW}", False
    ),
    "short": Problem(
        "shorter than a flow stack", "nothing: first and last fields are repeated", False
    ),
    "rgb_duplicate": Problem(
        "the same frames under several names", "compare with a fresh download", False
    ),
    "flow_duplicate": Problem("the same flow for several videos", _FLOW, False),
}


@dataclass(frozen=True)
class VideoCheck:
    """What was seen of a video's frames or of its flow; problems are by code of `PROBLEMS`."""

    count: int = 0  # of frames or fields; numbers of what could not be read are 0
    size: Size = (0, 0)  # of the first
    fps: float = 0.0  # 0 where nobody knows
    decoder: str = ""  # what read it
    fingerprint: str = ""  # equal for equal content; "" where there is none
    source: str = ""  # of a video file, see `source_of`
    problems: Mapping[str, str] = field(default_factory=dict)  # seen in it alone, the first of each
    others: Mapping[str, str] = field(default_factory=dict)  # seen beside its frames or others
    state: str = ""  # of its files, such as their size and time; "" is not to be relied on
    full: bool = False  # whether everything was decoded

    @property
    def fatal(self) -> list[str]:
        """Why a video cannot be used; an unknown code is a reason."""
        return [*self.damage, *filter(_is_fatal, self.others)]

    @property
    def damage(self) -> list[str]:
        """The part of `fatal` that was seen in it alone."""
        return [*filter(_is_fatal, self.problems)]


def _is_fatal(code: str) -> bool:
    return code not in PROBLEMS or PROBLEMS[code].fatal


Checks = dict[tuple[Modality, str], VideoCheck]  # of both sides of a video, by its `key_of`


@dataclass
class Manifest:
    """What is known of a dataset's videos."""

    file: Path
    places: Mapping[Modality, str] = field(default_factory=dict)  # see `place_of`
    checks: Checks = field(default_factory=dict)
    complete: bool = False  # whether it is of all videos

    @classmethod
    def load(cls, file: Path) -> Self | None:
        """Read a manifest, without lines that are damaged; None where there is none of ours."""
        manifest = None
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return None
        for line in lines:
            try:
                record = json.loads(line)
                if manifest is None:
                    if record["version"] != VERSION:
                        return None
                    manifest = cls(file, dict(record["places"]), complete=record["complete"])
                else:
                    key = record.pop("modality"), str(record.pop("video"))
                    check = VideoCheck(**record | {"size": tuple(record["size"])})
                    manifest.checks[key] = check
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
        return manifest

    @classmethod
    def fitting(
        cls, file: str | None, places: Mapping[Modality, str], listed_videos: Iterable[Video]
    ) -> Self | None:
        """Read a manifest if it speaks of these places and listed videos; else warn: None."""
        if not file or not Path(file).is_file() or not (videos := Videos.of(listed_videos)):
            return None
        known = cls.load(Path(file))
        if known and known.complete:
            reasons = [
                f"for {modality} in {known.places[modality]}, not {place}"
                if modality in known.places
                else f"without {modality}"
                for modality, where in places.items()
                if known.places.get(modality) != (place := place_of(where, videos))
            ]
            listed = {(modality, key_of(video)) for modality in places for video in videos}
            if not reasons and not listed <= known.checks.keys():
                reasons = ["for other lists"]
            if not reasons:
                return known
        else:
            reasons = ["not complete" if known else "of another format"]
        again = "python -m src.verify_data makes it anew"
        log.warning("manifest %s is not used, it is %s: %s", file, "; ".join(reasons), again)
        return None

    def reason(self, video: Video, modality: Modality) -> str | None:
        """Why a video's frames or flow cannot be used; None if they can."""
        codes = self.checks[modality, key_of(video)].fatal
        titles = [PROBLEMS[code].title if code in PROBLEMS else code for code in codes]
        return f"{', '.join(titles)} according to {self.file}" if titles else None

    def add(self, modality: Modality, video: str, check: VideoCheck) -> None:
        """Add a line to the file that `save` has written."""
        self.checks[modality, video] = check
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(_line(modality, video, check))

    def save(self) -> None:
        """Write all of it anew.

        Raises:
            UserError: it cannot be written.
        """
        head = {"version": VERSION, "complete": self.complete, "places": self.places}
        made = {"made": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.file) as draft, draft.open("w", encoding="utf-8") as lines:
                lines.write(json.dumps(head | made) + "\n")
                lines.writelines(_line(*key, check) for key, check in self.checks.items())
        except OSError as error:
            raise UserError(
                f"manifest {self.file} cannot be written ({error.strerror}): give another place "
                "with data.videos.manifest=<file>.jsonl"
            ) from error


def _line(modality: Modality, video: str, check: VideoCheck) -> str:
    about: dict[str, Any] = {"modality": modality, "video": video}
    return json.dumps(about | asdict(check)) + "\n"


def place_of(where: str, videos: Sequence[Video]) -> str:
    """A place by its absolute path; of "videos" it is the folder above the listed files."""
    return str((videos_folder(videos) if where == VIDEOS else Path(where)).resolve())


def videos_folder(videos: Sequence[Video]) -> Path:
    """The folder above all listed videos, such as that of the class folders."""
    return Path(os.path.commonpath({video.path.parent for video in videos}))


# --- what is wrong -------------------------------------------------------------------------------


def complete(
    known: Manifest,
    modalities: Sequence[Modality],
    videos: Sequence[Video],
    stack: int,
    sources: Mapping[str, str],
    misplaced: Mapping[str, str],
) -> Details:
    """Add to the checks what is missing, and what shows beside others only; gives all problems.

    Args:
        known: what has been seen in each video alone.
        modalities: those that are there.
        videos: all that are listed.
        stack: flow fields that a network sees at once.
        sources: what flow was made of, see `sources_kept`.
        misplaced: where videos lie that are not where the lists say, by key.
    """
    checks = known.checks
    others: dict[tuple[Modality, str], dict[str, str]] = defaultdict(dict)
    for video in videos:
        key = key_of(video)
        rgb = checks.get(("rgb", key), VideoCheck())
        for modality in modalities:
            if (modality, key) not in checks:
                checks[modality, key] = VideoCheck()
                others[modality, key] = {f"{modality}_missing": ""}
                if modality == "rgb" and key in misplaced:
                    others[modality, key] = {"rgb_misplaced": f"is {misplaced[key]}"}
        made_of = sources.get(video.name.lower())
        if rgb.source and made_of not in (None, rgb.source) and checks["flow", key].count:
            others["flow", key]["flow_source"] = f"{video.path} has changed since"
        frames, flow = _sound(rgb), _sound(checks.get(("flow", key)))
        if frames and frames.count == 1:
            # Whatever else is there of it, and nothing is missing.
            others[modalities[-1], key] = {f"{modalities[-1]}_single": ""}
        else:
            others[modalities[-1], key] |= _of_both(frames, flow, stack)
    for key, detail in _duplicates("rgb", checks).items():
        others["rgb", key]["rgb_duplicate"] = detail
    for key, detail in _duplicates("flow", checks).items():
        if "rgb_duplicate" not in others.get(("rgb", key), {}):  # flow of the same frames is
            others["flow", key]["flow_duplicate"] = detail
    for key, detail in _other_scale(checks).items():
        others["flow", key]["flow_scale"] = detail
    known.checks = {
        (modality, key): replace(checks[modality, key], others=others[modality, key])
        for modality in modalities
        for key in map(key_of, videos)
    }
    known.complete = True
    details: Details = defaultdict(dict)
    for (_, key), check in known.checks.items():
        for code, detail in {**check.problems, **check.others}.items():
            details[code][key] = detail
    return dict(details)


def _sound(check: VideoCheck | None) -> VideoCheck | None:
    """A check whose numbers and sizes can be compared: not of what is missing or damaged."""
    if check is None or not check.count or any(not c.endswith("_sizes") for c in check.damage):
        return None
    return check


def _of_both(frames: VideoCheck | None, flow: VideoCheck | None, stack: int) -> dict[str, str]:
    """What is wrong with frames and flow of one video that are each as they should be."""
    problems = {}
    if frames and flow:
        difference = flow.count - (frames.count - 1)
        numbers = f"{frames.count} frames, {flow.count} flow fields"
        if abs(difference) > COUNT_TOLERANCE:
            problems["flow_count"] = numbers
        elif difference:
            problems["flow_uneven"] = numbers
        if _other_shape(frames.size, flow.size):
            problems["flow_aspect"] = (
                f"frames of {size_text(frames.size)}, flow of {size_text(flow.size)}"
            )
    lengths = [frames.count] if frames else []
    if flow:
        lengths.append(flow.count + 1)
    if lengths and min(lengths) <= stack:
        problems["short"] = f"{min(lengths)} frames, a stack of {stack} flow fields"
    return problems


def _other_shape(frame: Size, field: Size) -> bool:
    scale = min(field) / min(frame)
    return any(abs(a * scale - b) > _ROUNDING for a, b in zip(frame, field, strict=True))


def _duplicates(modality: Modality, checks: Checks) -> dict[str, str]:
    """For each video with the content of others, the first of them."""
    same: dict[str, list[str]] = defaultdict(list)
    for (which, key), check in checks.items():
        if which == modality and check.fingerprint and not check.damage:
            same[check.fingerprint].append(key)
    return {
        key: f"as {keys[0] if key != keys[0] else keys[1]}"
        for keys in same.values()
        if len(keys) > 1
        for key in keys
    }


def _other_scale(checks: Checks) -> dict[str, str]:
    """The videos whose flow has another smaller side than most have."""
    sides = {key: min(check.size) for (which, key), check in checks.items() if which == "flow"}
    usual = Counter(side for side in sides.values() if side).most_common(1)
    return {
        key: f"smaller side {side}, of most {usual[0][0]}"
        for key, side in sides.items()
        if side and side != usual[0][0]
    }


def size_text(size: Size) -> str:
    """A size as people write it: width x height."""
    return f"{size[1]}x{size[0]}"
