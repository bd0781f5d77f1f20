"""What `verify` has found, in words: what is there, what is wrong, and what to do about it."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.data.stores import ON_THE_FLY
from src.data.verification.manifest import PROBLEMS, Modality, size_text
from src.data.verification.verify import Verification
from src.flow.settings import FlowSettings
from src.media.images import archives_at, is_archive
from src.utils.commands import Shown, shown_command
from src.utils.errors import UserError, visible, without_controls

FILE_NAME = "verify_report.txt"
MOVES = "verify_moves.sh"  # puts videos where the lists say
_FEW = 5


def report(result: Verification, few: int | None = _FEW) -> str:
    """Describe what was found, with a few names of each kind; None shows all names."""
    blocks = [_summary(result), *_problems(result, few), *_lists(result, few)]
    lines = [line for block in blocks for line in block]
    return "\n".join([*lines, *_verdict(result)])


def write_report(result: Verification) -> Path:
    """Write the report, with all names, beside the manifest; the file.

    Where videos are misplaced, a script that moves them is written as well.

    Raises:
        UserError: it cannot be written.
    """
    file = result.manifest.file.with_name(FILE_NAME)
    moves = file.with_name(MOVES)
    try:
        text = without_controls(report(result, few=None))
        file.write_text(f"{text}\n", encoding="utf-8")
        if result.moves:
            lines = (_move(source, target) for source, target in result.moves.items())
            moves.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        else:
            moves.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"report {file} cannot be written ({error.strerror})") from error
    return file


def _move(source: Path, target: Path) -> str:
    folder, *files = (shlex.quote(str(path)) for path in (target.parent, source, target))
    return f"mkdir -p {folder} && mv -n {' '.join(files)}\n"


def _summary(result: Verification) -> list[str]:
    splits = ", ".join(
        f"{number} ({len(split.train)} + {len(split.test)})"
        for number, split in result.lists.splits.items()
    )
    lines = [
        f"{len(result.lists.videos)} videos in the lists of split {splits}, to train and to test on"
    ]
    if result.lists.unused:
        lines[0] += f"; {len(result.lists.unused)} more are listed for no split"
    names: dict[Modality, str] = {"rgb": "frames", "flow": "flow"}
    for modality, name in names.items():
        if modality not in result.places:
            lines.append(_absent(result, modality))
            continue
        place = result.places[modality]
        checks = [
            check for (which, _), check in result.manifest.checks.items() if which == modality
        ]
        absent = {f"{modality}_{why}" for why in ("missing", "misplaced", "single")}
        count = sum(absent.isdisjoint(check.others) for check in checks)
        seen = [
            _counted(size_text(check.size) for check in checks if check.size[0]),
            _counted(f"{check.fps:g} fps" for check in checks if check.fps),
            _counted(check.decoder for check in checks if check.fps),
        ]
        where = result.videos if place == "videos" else place
        lines.append(f"{name} of {count} in {where}: {'; '.join(filter(None, seen))}")
    how = "everything decoded" if result.full else "first, middle and last image of each decoded"
    lines.append(
        f"{result.checked} looked at now, {result.cached} known from before, "
        f"{result.seconds:.1f} s ({how}{'' if result.full else '; full=true decodes everything'})"
    )
    return lines


def _absent(result: Verification, modality: Modality) -> str:
    if modality == "rgb":
        return "no frames yet"
    if result.flow == ON_THE_FLY:
        return "flow is computed from the frames while training"
    return f"no flow yet: {_extract(result)}"


def _places(result: Verification) -> dict[str, str]:
    """What hints name: where flow lies, the command that makes it, the script that moves videos."""
    moves = shlex.quote(str(result.manifest.file.with_name(MOVES)))
    return {"flow": str(result.flow), "extract": _extract(result), "moves": moves}


def _extract(result: Verification) -> str:
    """The command that makes flow as that which is there was made, and beside it."""
    place = Path(result.flow or "flow")
    settings = FlowSettings.load(place)
    if is_archive(place) and not settings:
        return f"download {place} again"
    output = place.parent if is_archive(place) else place
    overrides: list[Shown] = [("input", result.videos), ("output", output)]
    if settings:
        overrides += settings.overrides()
    if archives_at(output):
        overrides.append("format=zip")
    return shown_command("extract_flow", *overrides)


def _counted(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    shown = [f"{value} ({count})" for value, count in counts[:_FEW]]
    return ", ".join(shown) + (f" and {len(counts) - _FEW} more" if len(counts) > _FEW else "")


def _problems(result: Verification, few: int | None) -> Iterable[list[str]]:
    for code, problem in PROBLEMS.items():
        details = result.details.get(code)
        if details:
            kind = "error" if problem.fatal else "note"
            yield [
                "",
                f"{kind} {code}: {problem.title}: {len(details)}",
                *_some([f"{key}  {detail}".rstrip() for key, detail in details.items()], few),
                f"  hint: {problem.hint.format(**_places(result))}",
            ]


def _lists(result: Verification, few: int | None) -> Iterable[list[str]]:
    across = _across(result)
    for title, names, hint in (
        (
            "error lists: splits that cannot be used",
            result.lists.unreadable,
            "as each line tells; data/README.md says where the lists come from",
        ),
        (
            "note leak: of one group in train and test",
            result.lists.leaks(),
            "take the original lists; of data=folder, data.dataset.group keeps groups together",
        ),
        ("note across: the same frames in train and test", across, "compare with a fresh download"),
        (
            "note extra: frames that no list names",
            result.extra["rgb"],
            "nothing: they are not used",
        ),
        (
            "note extra: flow that no list names",
            result.extra["flow"],
            "nothing: it is not used",
        ),
    ):
        if names:
            yield ["", f"{title}: {len(names)}", *_some(names, few), f"  hint: {hint}"]


def _across(result: Verification) -> list[str]:
    """Duplicates of which one is trained and the other tested on."""
    parts = result.lists.parts()
    return [
        f"{key}  {detail}"
        for key, detail in result.details.get("rgb_duplicate", {}).items()
        for number in result.lists.splits
        if (number, "test") in parts[key] and (number, "train") in parts[detail.removeprefix("as ")]
    ]


def _some(names: Sequence[str], few: int | None) -> list[str]:
    shown = [f"  {visible(name)}" for name in names[:few]]
    return shown if len(shown) == len(names) else [*shown, f"  and {len(names) - len(shown)} more"]


def _verdict(result: Verification) -> list[str]:
    errors = {key for code, keys in result.details.items() if PROBLEMS[code].fatal for key in keys}
    verdict = "nothing that would stop training"
    if result.lists.unreadable:
        verdict = f"{len(result.lists.unreadable)} splits cannot be used"
    if errors:
        verdict = f"{len(errors)} videos cannot be used"
    return ["", f"{verdict}; manifest in {result.manifest.file}"]
