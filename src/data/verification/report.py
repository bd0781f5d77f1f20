"""What `verify` has found, in words: what is there, what is wrong, and what to do about it."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.data.verification.manifest import PROBLEMS, Modality, size_text
from src.data.verification.verify import Verification
from src.flow.settings import FlowSettings
from src.media.images import archives_at, is_archive
from src.utils.commands import Shown, shown_command
from src.utils.errors import UserError, visible, without_controls

FILE_NAME = "verify_report.txt"
MOVES = "verify_moves.sh"  # puts videos where the lists say
_FEW = 5


def report(verification: Verification, few: int | None = _FEW) -> str:
    """Describe what was found, with a few names of each kind; None shows all names."""
    blocks = [_summary(verification), *_problems(verification, few), *_lists(verification, few)]
    lines = [line for block in blocks for line in block]
    return "\n".join([*lines, *_verdict(verification)])


def write_report(verification: Verification) -> Path:
    """Write the report, with all names, beside the manifest; the file.

    Where videos are misplaced, a script that moves them is written as well.

    Raises:
        UserError: it cannot be written.
    """
    file = verification.manifest.file.with_name(FILE_NAME)
    moves = file.with_name(MOVES)
    try:
        text = without_controls(report(verification, few=None))
        file.write_text(f"{text}\n", encoding="utf-8")
        if verification.moves:
            lines = (_move(source, target) for source, target in verification.moves.items())
            moves.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        else:
            moves.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"report {file} cannot be written ({error.strerror})") from error
    return file


def _move(source: Path, target: Path) -> str:
    folder, *files = (shlex.quote(str(path)) for path in (target.parent, source, target))
    return f"mkdir -p {folder} && mv -n {' '.join(files)}\n"


def _summary(found: Verification) -> list[str]:
    splits = ", ".join(
        f"{number} ({len(split.train)} + {len(split.test)})"
        for number, split in found.lists.splits.items()
    )
    lines = [
        f"{len(found.lists.videos)} videos in the lists of split {splits}, to train and to test on"
    ]
    if found.lists.unused:
        lines[0] += f"; {len(found.lists.unused)} more are listed for no split"
    names: dict[Modality, str] = {"rgb": "frames", "flow": "flow"}
    for modality, name in names.items():
        place = found.places.get(modality)
        checks = [check for (which, _), check in found.manifest.checks.items() if which == modality]
        absent = {f"{modality}_{why}" for why in ("missing", "misplaced", "single")}
        count = sum(absent.isdisjoint(check.others) for check in checks)
        seen = [
            _counted(size_text(check.size) for check in checks if check.size[0]),
            _counted(f"{check.fps:g} fps" for check in checks if check.fps),
            _counted(check.decoder for check in checks if check.fps),
        ]
        if place is None:
            lines.append(f"no {name} yet" + (f": {_extract(found)}" if name == "flow" else ""))
        else:
            where = found.videos if place == "videos" else place
            lines.append(f"{name} of {count} in {where}: {'; '.join(filter(None, seen))}")
    how = "everything decoded" if found.full else "first, middle and last image of each decoded"
    lines.append(
        f"{found.checked} looked at now, {found.cached} known from before, "
        f"{found.seconds:.1f} s ({how}{'' if found.full else '; full=true decodes everything'})"
    )
    return lines


def _places(found: Verification) -> dict[str, str]:
    """What hints name: where flow lies, the command that makes it, the script that moves videos."""
    moves = shlex.quote(str(found.manifest.file.with_name(MOVES)))
    return {"flow": str(found.flow), "extract": _extract(found), "moves": moves}


def _extract(found: Verification) -> str:
    """The command that makes flow as that which is there was made, and beside it."""
    place = Path(found.flow or "flow")
    settings = FlowSettings.load(place)
    if is_archive(place) and not settings:
        return f"download {place} again"
    output = place.parent if is_archive(place) else place
    overrides: list[Shown] = [("input", found.videos), ("output", output)]
    if settings:
        overrides += settings.overrides()
    if archives_at(output):
        overrides.append("format=zip")
    return shown_command("extract_flow", *overrides)


def _counted(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    shown = [f"{value} ({count})" for value, count in counts[:_FEW]]
    return ", ".join(shown) + (f" and {len(counts) - _FEW} more" if len(counts) > _FEW else "")


def _problems(found: Verification, few: int | None) -> Iterable[list[str]]:
    for code, problem in PROBLEMS.items():
        details = found.details.get(code)
        if details:
            kind = "error" if problem.fatal else "note"
            yield [
                "",
                f"{kind} {code}: {problem.title}: {len(details)}",
                *_some([f"{key}  {detail}".rstrip() for key, detail in details.items()], few),
                f"  hint: {problem.hint.format(**_places(found))}",
            ]


def _lists(found: Verification, few: int | None) -> Iterable[list[str]]:
    across = _across(found)
    for title, names, hint in (
        (
            "error lists: splits that cannot be used",
            found.lists.unreadable,
            "as each line tells; data/README.md says where the lists come from",
        ),
        (
            "note leak: of one group in train and test",
            found.lists.leaks(),
            "take the original lists; of data=folder, data.dataset.group keeps groups together",
        ),
        ("note across: the same frames in train and test", across, "compare with a fresh download"),
        ("note extra: frames that no list names", found.extra["rgb"], "nothing: they are not used"),
        ("note extra: flow that no list names", found.extra["flow"], "nothing: it is not used"),
    ):
        if names:
            yield ["", f"{title}: {len(names)}", *_some(names, few), f"  hint: {hint}"]


def _across(found: Verification) -> list[str]:
    """Duplicates of which one is trained and the other tested on."""
    parts = found.lists.parts()
    return [
        f"{key}  {detail}"
        for key, detail in found.details.get("rgb_duplicate", {}).items()
        for number in found.lists.splits
        if (number, "test") in parts[key] and (number, "train") in parts[detail.removeprefix("as ")]
    ]


def _some(names: Sequence[str], few: int | None) -> list[str]:
    shown = [f"  {visible(name)}" for name in names[:few]]
    return shown if len(shown) == len(names) else [*shown, f"  and {len(names) - len(shown)} more"]


def _verdict(found: Verification) -> list[str]:
    errors = {key for code, keys in found.details.items() if PROBLEMS[code].fatal for key in keys}
    verdict = "nothing that would stop training"
    if found.lists.unreadable:
        verdict = f"{len(found.lists.unreadable)} splits cannot be used"
    if errors:
        verdict = f"{len(errors)} videos cannot be used"
    return ["", f"{verdict}; manifest in {found.manifest.file}"]
