"""What the scores of a test look like: by class, and by confusion."""

from matplotlib.figure import Figure

from src.evaluation.analysis import Fused, class_accuracies, confusion_matrix
from src.evaluation.scores import VideoScores
from src.figures.bars import draw_class_accuracies
from src.figures.matrix import draw_confusion_matrix


def draw_scores(scores: VideoScores, fused: Fused | None = None) -> dict[str, Figure]:
    """Draw "class_accuracy", of each part beside the whole, and "confusion".

    Args:
        scores: of a net.
        fused: what they, or they and others, are the mean of.
    """
    parts = {**fused.parts, fused.name: fused.whole} if fused else {"all": scores}
    by_class = {name: class_accuracies(one) for name, one in parts.items()}
    matrix = confusion_matrix(scores)
    return {
        "class_accuracy": draw_class_accuracies(by_class),
        "confusion": draw_confusion_matrix(matrix, scores.classes),
    }
