"""What the page shows of single runs: curves, classes, confusions, and videos with their flow."""

import contextlib
import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.evaluation.analysis import BOTH, Fusion, draw_scores, hardest_confusions
from src.evaluation.samples import load_samples
from src.evaluation.scores import VideoScores
from src.experiment.run_dir import StageDir
from src.models.temporal import STREAMS
from src.plotting.charts import Curve, draw_curves, draw_training, to_svg
from src.reporting.collect import Run
from src.reporting.groups import ResultGroup
from src.reporting.page import Picture, Section
from src.training.late_fusion import LATE_FUSION, load_fused
from src.utils.errors import UserError
from src.utils.files import is_special

SVG = "image/svg+xml"
LARGEST_PICTURE = 2**20  # bytes; those of this project have some 50,000
# Keys of loggers and names of curves; {} is the part that was validated on: test or validation.
LOSSES = {"train/loss_epoch": "training", "val/loss": "central {} clips"}
VALIDATION = "val/clip/top1"
ACCURACIES = {"train/clip/top1": "training", VALIDATION: "central {} clips"} | {
    f"{VALIDATION}_{stream}": f"central {{}} clips, {stream}" for stream in STREAMS
}


def details(groups: Sequence[ResultGroup], most: int) -> list[Section]:
    """A comparison of the trainings of `most` groups, and a section for the first run of each.

    The page would become too large with many.
    """
    curves = {}
    for group in groups[:most]:
        run = group.first
        if curve := read_curves(run.folder, [VALIDATION], 100).get(VALIDATION):
            curves[f"{group.label} (split {run.split}, seed {run.seed})"] = curve
    sections = []
    if curves:
        drawn = to_svg(draw_curves(curves, "top-1 of central clips in validation, in %"))
        sections.append(Section("Trainings", pictures=[Picture(drawn, SVG)]))
    sections += [_section(group) for group in groups[:most]]
    if groups[most:]:
        why = f"details={most} is how many rows are shown above; not there:"
        lines = [why, *(group.label for group in groups[most:])]
        sections.append(Section("Without details", lines=lines))
    return sections


def _section(group: ResultGroup) -> Section:
    run = group.first
    title = f"{group.label}: split {run.split}, seed {run.seed}"
    lines = [f"top-1 {run.accuracy.top1:.1f} % of {run.accuracy.videos} videos; {run.protocol}"]
    pictures = _curves(run)
    if not pictures and run.stage != LATE_FUSION:
        lines.append("no curves: there is no metrics.csv of its training (logger=csv writes it)")
    try:
        scores, fused = _scores(run)
    except UserError as error:
        return Section(title, lines=[*lines, str(error)], pictures=pictures, folded=True)
    if fused:
        lines += [
            f"{fused.name} against {part} alone: {len(changed.corrected)} videos corrected, "
            f"{len(changed.broken)} broken"
            for part, changed in fused.changes().items()
        ]
    if confused := hardest_confusions(scores):
        worst = (f"{c.label} for {c.prediction} ({c.videos} of {c.of})" for c in confused)
        lines.append(f"most often taken for another: {', '.join(worst)}")
    pictures += [Picture(to_svg(figure), SVG) for figure in draw_scores(scores, fused).values()]
    for sample in load_samples(StageDir(run.folder).samples):
        if (jpeg := _jpeg_within(run.folder, sample.picture)) is not None:  # not moved away
            pictures.append(Picture(jpeg, "image/jpeg", sample.caption))
    return Section(title, lines=lines, pictures=pictures, folded=True)


def _jpeg_within(folder: Path, file: Path) -> bytes | None:
    """The content of a picture of a run; None of what is none, or lies elsewhere by a link.

    The page is passed on, and the run may be somebody else's.
    """
    with contextlib.suppress(OSError):
        within = file.resolve(strict=True).is_relative_to(folder.resolve())
        if within and file.is_file() and file.stat().st_size <= LARGEST_PICTURE:
            content = file.read_bytes()
            return content if content.startswith(b"\xff\xd8\xff") else None
    return None


def _curves(run: Run) -> list[Picture]:
    part = "validation" if "data.val_fraction" in run.identity else "test"
    losses, tops = (
        {names[k].format(part): curve for k, curve in read_curves(run.folder, names, by).items()}
        for names, by in ((LOSSES, 1), (ACCURACIES, 100))
    )
    return [Picture(to_svg(draw_training(losses, tops)), SVG)] if losses or tops else []


def read_curves(stage_dir: Path, keys: Iterable[str], by: float) -> dict[str, Curve]:
    """The last value of each key in every epoch; a stage that was resumed has several files.

    Values are multiplied `by` a number. A file that is broken or of something else tells nothing.
    """
    values: dict[str, dict[int, float]] = {key: {} for key in keys}
    files = stage_dir.glob("csv/version_*/metrics.csv")
    for file in sorted(files, key=lambda file: (len(file.parent.name), file)):  # 10 after 2
        try:
            if is_special(file):
                continue
            with file.open(newline="", encoding="utf-8") as lines:
                for row in csv.DictReader(lines):
                    for key, by_epoch in values.items():
                        number = float(row.get(key) or math.nan)
                        if row.get("epoch") and math.isfinite(number):
                            by_epoch[int(float(row["epoch"])) + 1] = by * number
        except (OSError, ValueError, csv.Error):
            continue
    return {key: dict(sorted(by_epoch.items())) for key, by_epoch in values.items() if by_epoch}


def _scores(run: Run) -> tuple[VideoScores, Fusion | None]:
    """The scores of a run and, if they are a mean, what of."""
    if run.stage == LATE_FUSION:
        fused = load_fused(run.folder)
        return fused.scores, fused
    stage_dir = StageDir(run.folder)
    scores = VideoScores.load(stage_dir.scores())
    files = {stream: stage_dir.scores(stream) for stream in run.classifiers}
    parts = {stream: VideoScores.load(file) for stream, file in files.items() if file.is_file()}
    return scores, Fusion(BOTH, scores, parts) if len(parts) > 1 else None
