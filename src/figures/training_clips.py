"""Training clips as the network gets them."""

from matplotlib.figure import Figure

from src.figures.strips import Strip, clip_images, draw_strips
from src.inspection.training_clips import TrainingClips

LABELS = 0.5  # inches


def draw_training_clips(clips: TrainingClips, count: int = 3) -> Figure:
    """Draw clips with their videos' names and what they are trained as.

    Args:
        clips: see `training_clips`; drawn is what the network gets, levels restored.
        count: how many clips, from the first.
    """
    seen, strips = clips.restored(), []
    for clip, trained_as in enumerate(clips.titles()[:count]):
        title = f"{seen['video'][clip]}: {trained_as}"
        for modality, images in clip_images(seen, clip).items():
            strips.append(Strip(modality, images, title))
            title = ""
    return draw_strips(strips, LABELS, about=_about(clips))


def _about(clips: TrainingClips) -> str:
    return "normalised input: " + "; ".join(
        f"{name} mean {of['mean']:.2f}, deviation {of['std']:.2f}, {of['min']:.1f} to "
        f"{of['max']:.1f}"
        for name, of in clips.statistics().items()
    )
