"""Training clips as the network gets them."""

from matplotlib.figure import Figure

from src.figures.images import clip_images, show_strip, strip_height
from src.inspection.training_clips import TrainingClips

WIDTH = 7.0  # inches of a strip
LABELS = 0.5  # beside it


def draw_training_clips(clips: TrainingClips, count: int = 3) -> Figure:
    """Draw clips with their videos' names and what they are trained as.

    Args:
        clips: see `training_clips`; drawn is what the network gets, levels restored.
        count: how many clips, from the first.
    """
    seen, titles = clips.restored(), clips.titles()
    count = min(count, len(titles))
    strips = [clip_images(seen, clip) for clip in range(count)]
    rows = [(clip, modality) for clip in range(count) for modality in strips[clip]]
    heights = [strip_height(strips[clip][modality], WIDTH) for clip, modality in rows]
    figure = Figure(figsize=(WIDTH + LABELS, sum(heights) + 0.3 * count + 0.1 * len(rows) + 0.5))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(rows), squeeze=False, height_ratios=heights)[:, 0]
    for each, (clip, modality) in zip(axes, rows, strict=True):
        show_strip(each, strips[clip][modality], modality)
        if modality == next(iter(strips[clip])):
            each.set_title(f"{seen['video'][clip]}: {titles[clip]}", loc="left", fontsize=9)
    figure.supxlabel(_about(clips), fontsize=8)
    return figure


def _about(clips: TrainingClips) -> str:
    return "normalised input: " + "; ".join(
        f"{name} mean {of['mean']:.2f}, deviation {of['std']:.2f}, {of['min']:.1f} to "
        f"{of['max']:.1f}"
        for name, of in clips.statistics().items()
    )
