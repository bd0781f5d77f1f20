"""Files among videos and images that are neither: counted, and reported once."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

log = logging.getLogger(__name__)
_reported: set[Path] = set()
SOURCES = "sources"  # beside extracted images: what is known of the video of each
# What this project itself writes beside videos and flow.
_OWN = re.compile(
    r"(.*/)?((flow|frames)\.json|failed(-\d+-of-\d+)?\.csv|manifest\.jsonl|verify_(report\.txt|moves\.sh)"
    rf"|{SOURCES}/[^/]*\.txt)"
)


def count_skipped(paths: Iterable[str]) -> dict[str, int]:
    """How many files there are of each ending, by their paths with `/`.

    Hidden files and those that this project writes do not count.
    """
    names = (
        PurePosixPath(path).name
        for path in paths
        if not _OWN.fullmatch(path) and not PurePosixPath(path).name.startswith(".")
    )
    return dict(Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in names))


def report_skipped(place: Path, kind: str, skipped: Mapping[str, int]) -> None:
    """Report what of a place is skipped, the first time that it is read.

    Args:
        place: the folder or archive.
        kind: what is looked for, such as "videos".
        skipped: how many files of each ending, of `count_skipped`.
    """
    if not skipped or place in _reported:
        return
    _reported.add(place)
    log.info(
        "%s: %d skipped that are no %s: %s", place, sum(skipped.values()), kind, shown(skipped)
    )


def shown(skipped: Mapping[str, int]) -> str:
    """Endings and their counts, such as ".txt (2), .db (1)"."""
    most_first = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{ending} ({count})" for ending, count in most_first)
