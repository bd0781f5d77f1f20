"""What can be wrong with a dataset's videos: short codes for manifests, words for people."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A kind of problem.

    Args:
        title: what is wrong.
        mend: what to do about it; {flow} is its place, {extract} the command that makes it.
        fatal: whether a video with it cannot be trained on.
    """

    title: str
    mend: str
    fatal: bool = True


_SKIP = "or train without them: data.videos.missing=skip"
_FRAMES = f"get them again (data/README.md says where from), {_SKIP}"
_FLOW = (
    "delete what is there of them in {flow}, then {extract} "
    f"(of an archive: download it again), {_SKIP}"
)
_EXTRACT = f"{{extract}}, {_SKIP}"

# The beginning of a code says which network it concerns: one that sees "rgb", or "flow".
PROBLEMS = {
    "rgb_missing": Problem("no frames", _FRAMES),
    "rgb_empty": Problem("files of frames without content", _FRAMES),
    "rgb_broken": Problem("frames cannot be decoded", _FRAMES),
    "rgb_truncated": Problem("files of frames that break off", _FRAMES),
    "rgb_gap": Problem("frames are missing in between", _FRAMES),
    "rgb_crash": Problem("the decoder crashed or hung", f"try another data.decoder, {_SKIP}"),
    "flow_missing": Problem("no flow", _EXTRACT),
    "flow_empty": Problem("files of flow without content", _FLOW),
    "flow_broken": Problem("flow cannot be decoded", _FLOW),
    "flow_truncated": Problem("files of flow that break off", _FLOW),
    "flow_gap": Problem("flow is missing in between", _FLOW),
    "flow_crash": Problem("the decoder of flow crashed or hung", _FLOW),
    "flow_uv": Problem("u and v differ in number or size", _FLOW),
    "flow_sizes": Problem("flow changes its size within a video", _FLOW),
    "flow_count": Problem("flow of another video: it does not fit the number of frames", _FLOW),
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


def is_fatal(code: str) -> bool:
    """Whether a video with this problem cannot be trained on; unknown codes are."""
    return code not in PROBLEMS or PROBLEMS[code].fatal
