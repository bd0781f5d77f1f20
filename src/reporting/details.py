"""What a page shows of single runs: curves, classes, confusions, and videos with their flow."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from src.errors import UserError
from src.evaluation.analysis import BOTH, Fused, draw_scores, hardest_confusions
from src.evaluation.fusion import fuse
from src.evaluation.samples import load_samples
from src.evaluation.scores import VideoScores, scores_file
from src.models.temporal import STREAMS
from src.plotting.charts import draw_curves, draw_training, to_svg
from src.reporting.collect import LATE_FUSION
from src.reporting.curves import ACCURACIES, LOSSES, VALIDATION, in_percent, read_curves
from src.reporting.document import Picture, Section
from src.reporting.records import Run
from src.reporting.rows import Row
from src.reporting.settings import OWN
from src.training.run_dir import StageDir

SVG = "image/svg+xml"


def details(rows: Sequence[Row], most: int) -> list[Section]:
    """A comparison of the rows' trainings, and a section for the first run of each row.

    Args:
        rows: sorted.
        most: rows to show; the page would become too large with many.
    """
    shown = rows[:most]
    sections = [section for section in [_all_curves(shown)] if section]
    sections += [_section(row) for row in shown]
    if rows[most:]:
        names = [row.name for row in rows[most:]]
        why = f"details={most} is how many rows are shown above; not there:"
        sections.append(Section("Without details", lines=[why, *names]))
    return sections


def _all_curves(rows: Sequence[Row]) -> Section | None:
    curves = {}
    for row in rows:
        read = read_curves(row.first.folder, [VALIDATION])
        if VALIDATION in read:
            name = f"{row.name} (split {row.first.split}, seed {row.first.seed})"
            curves[name] = in_percent(read[VALIDATION])
    if not curves:
        return None
    drawn = to_svg(draw_curves(curves, "top-1 of central clips in validation, in %"))
    return Section("Trainings", pictures=[Picture(drawn, SVG)])


def _section(row: Row) -> Section:
    run = row.first
    title = f"{row.name}: split {run.split}, seed {run.seed}"
    lines = [f"top-1 {run.accuracy.top1:.1f} % of {run.accuracy.videos} videos; {run.protocol}"]
    pictures = list(_curves(run))
    if not pictures and run.stage != LATE_FUSION:
        lines.append("no curves: there is no metrics.csv of its training (logger=csv writes it)")
    try:
        scores, fused = _scores(run)
    except UserError as error:
        return Section(title, lines=[*lines, str(error)], pictures=pictures, folded=True)
    lines += _words(scores, fused)
    pictures += [Picture(to_svg(figure), SVG) for figure in draw_scores(scores, fused).values()]
    pictures += _samples(run)
    return Section(title, lines=lines, pictures=pictures, folded=True)


def _curves(run: Run) -> Iterator[Picture]:
    read = read_curves(run.folder, [*LOSSES, *ACCURACIES])
    part = "validation" if run.settings.get((OWN, "data.val_fraction")) else "test"
    losses = {name.format(part): read[key] for key, name in LOSSES.items() if key in read}
    tops = {
        name.format(part): in_percent(read[key]) for key, name in ACCURACIES.items() if key in read
    }
    if losses or tops:
        yield Picture(to_svg(draw_training(losses, tops)), SVG)


def _scores(run: Run) -> tuple[VideoScores, Fused | None]:
    """The scores of a run and, if they are a mean, what of."""
    if run.stage == LATE_FUSION:
        parts = _load({stream: scores_file(run.folder / stream) for stream in STREAMS})
        fused = Fused(LATE_FUSION, fuse(list(parts.values())), parts)
        return fused.whole, fused
    scores = VideoScores.load(scores_file(run.folder))
    files = {stream: scores_file(run.folder, stream) for stream in STREAMS}
    parts = _load({stream: file for stream, file in files.items() if file.is_file()})
    return scores, Fused(BOTH, scores, parts) if len(parts) > 1 else None


def _load(files: dict[str, Path]) -> dict[str, VideoScores]:
    return {stream: VideoScores.load(file) for stream, file in files.items()}


def _words(scores: VideoScores, fused: Fused | None) -> Iterator[str]:
    if fused:
        for part, changed in fused.changes().items():
            yield (
                f"{fused.name} against {part} alone: {len(changed.fixed)} videos fixed, "
                f"{len(changed.broke)} broken"
            )
    if confused := hardest_confusions(scores):
        worst = (f"{c.label} for {c.prediction} ({c.videos} of {c.of})" for c in confused)
        yield f"most often taken for another: {', '.join(worst)}"


def _samples(run: Run) -> Iterator[Picture]:
    for sample in load_samples(StageDir(run.folder).samples):
        try:
            yield Picture(sample.picture.read_bytes(), "image/jpeg", sample.caption)
        except OSError:  # moved away
            continue
