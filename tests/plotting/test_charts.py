"""Figures of `src.inspection` and `src.plotting` show their numbers, and nothing is cut off."""

import re

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from src.inspection.contributions import Contribution, draw_contributions
from src.inspection.grad_cam import HeatMaps, draw_heat_maps, heated
from src.inspection.learning_rates import StageRates, draw_learning_rates
from src.inspection.temporal_filters import TemporalFilter, draw_temporal_filters
from src.inspection.training_clips import TrainingClips, draw_training_clips
from src.models.modules import Batch
from src.models.normalize import Normalize
from src.plotting.charts import draw_class_differences
from src.plotting.clips import clip_images, color_flow, flow_pictures
from src.utils.errors import UserError

FRAMES, SIDE = 3, 16


def texts(figure: Figure) -> list[str]:
    """All texts of a figure, once nothing of it is found to be cut off."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, size = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    assert drawn.min.min() >= -0.02  # inches
    assert (drawn.max <= size + 0.02).all()
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


def heights(axes: Axes) -> list[float]:
    return [patch.get_height() for patch in axes.patches]


def clips() -> Batch:
    torch.manual_seed(0)
    return {
        "rgb": torch.randint(0, 256, (2, 3, FRAMES, SIDE, SIDE), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (2, 20, FRAMES, SIDE, SIDE), dtype=torch.uint8),
        "label": torch.tensor([1, 0]),
        "video": ["first", "second"],
    }


def test_frames_and_the_middle_field_of_their_flow() -> None:
    batch = clips()
    images = clip_images(batch, 1)
    assert np.array_equal(images["rgb"][2, 3, 5], batch["rgb"][1, :, 2, 3, 5])
    drawn = color_flow(batch["flow"][1, 10:12].transpose(0, 1))  # field L / 2
    assert np.array_equal(images["flow"], drawn)


def test_colors_of_flow() -> None:
    """White is rest, to the right is red, and what is nearly as long nearly as strong."""
    levels = torch.tensor([[[0, 127, 128, 167, 255]], [[127] * 5]], dtype=torch.uint8)  # u, v
    (left, *rest, slow, right) = color_flow(levels[None])[0, 0].astype(int)
    assert left[0] < 5
    assert left[1:].min() > 190  # cyan
    assert all(color.tolist() == [255, 255, 255] for color in rest)
    assert right[0] > 250
    assert right[1:].max() < 50  # v is half a level up
    assert slow.tolist() == pytest.approx([255, 176, 190], abs=4)  # 39.5 of 127.5 levels
    assert flow_pictures(levels[:, None, :, :4])[0, 0, 0].tolist() == left.tolist()
    assert flow_pictures(levels[:, None, :, 1:4])[0, 0, 2, 1:].max() < 50  # the fastest motion


def test_heat_is_laid_over_the_stream_that_it_is_of() -> None:
    batch, maps = clips(), torch.zeros(2, FRAMES, SIDE, SIDE)
    maps[1, 0, 4, 4] = 1
    hot = heated(clip_images(batch, 1)["rgb"], maps[1])
    grey = clip_images(batch, 1)["rgb"].mean(-1)
    expected = 0.65 * 255 * np.array(colormaps["inferno"](1.0)[:3]) + 0.35 * grey[0, 4, 4]
    assert np.abs(hot[0, 4, 4] - expected).max() <= 0.5
    classes = torch.tensor([1, 0])
    found = [
        HeatMaps("appearance", "appearance", classes, maps),
        HeatMaps("motion", "appearance", classes, maps),
    ]
    figure = draw_heat_maps(batch, found, 1, "second: a class")
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == [
        "rgb",
        "appearance\nfor its classifier",
        "flow",
        "motion for the\nappearance classifier",
    ]
    drawn = figure.axes[1].images[0].get_array()
    assert drawn is not None
    assert np.array_equal(drawn[:, :SIDE], hot[0])
    assert "second: a class" in texts(figure)


def test_training_clips_are_named() -> None:
    batch, normalize = clips(), Normalize()
    net_input = {name: getattr(normalize, name)(batch[name]) for name in ("rgb", "flow")}
    seen = TrainingClips(batch, net_input, batch["label"], normalize, ("walk", "run"))
    figure = draw_training_clips(seen)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "first: run",
        "",
        "second: walk",
        "",
    ]
    assert any(re.match(r"normalized input: rgb mean -?0\.\d+", text) for text in texts(figure))
    assert len(draw_training_clips(seen, 1).axes) == 2


def test_contributions_are_bars() -> None:
    found = [
        Contribution(1, {"appearance": 0.5, "motion": 0.25}, 80.0, 60.0, 0.1, 40),
        Contribution(4, {"appearance": 1.5, "motion": 0.75}, 80.0, 20.0, 0.9, 40),
    ]
    figure = draw_contributions(found)
    signal, accuracy, logits = figure.axes
    assert heights(signal) == [0.5, 1.5, 0.25, 0.75]
    assert heights(accuracy) == [60.0, 20.0]
    assert heights(logits) == [0.1, 0.9]
    assert {"stage 1", "stage 4", "into motion", "all on: 80.0"} <= set(texts(figure))


def test_shares_of_temporal_filters_are_stacked() -> None:
    names = ("average", "first difference", "second difference")
    found = [
        TemporalFilter(
            f"{stream}.layer{stage}.1.conv1",
            dict(zip(names, (0.5, 0.2, 0.3), strict=True)),
            0.25 if stream == "motion" else None,
        )
        for stream in ("appearance", "motion")
        for stage in (1, 2)
    ]
    figure = draw_temporal_filters(found)
    appearance, motion = figure.axes
    assert heights(appearance) == pytest.approx([0.5, 0.5, 0.2, 0.2, 0.3, 0.3])
    tops = [patch.get_y() + patch.get_height() for patch in motion.patches]
    assert tops[-2:] == pytest.approx([1.0, 1.0])
    shown = texts(figure)
    assert shown.count("0.25") == 2  # distances, where they are known
    assert {"1\nconv1", "second difference", "appearance"} <= set(shown)
    with pytest.raises(UserError, match="no temporal filters"):
        draw_temporal_filters([])


def test_learning_rates_have_a_panel_for_each_stage() -> None:
    progress = [0.0, 1.0, 2.0]
    stages = [
        StageRates("joint", 2, progress, {"weight": [0.1, 0.01, 0.0], "bias": [0.2, 0.02, 0.0]}),
        StageRates("joint_pooled", 2, progress, {"weight": [1e-3, 1e-3, 1e-3]}),
    ]
    figure = draw_learning_rates(stages)
    joint, pooled = figure.axes
    assert [line.get_ydata()[1] for line in joint.lines] == [0.01, 0.02]
    assert joint.lines[0].get_color() == pooled.lines[0].get_color()
    assert joint.get_yscale() == "log"
    assert {"joint", "joint_pooled", "weight", "bias"} <= set(texts(figure))


def test_classes_that_change_most_are_drawn_in_order() -> None:
    points = {"up": 50.0, "same": 0.0, "down": -25.0}
    videos = {"up": 2, "same": 2, "down": 4}
    figure = draw_class_differences(points, videos, "one", "other", most=2)
    (axes,) = figure.axes
    assert [patch.get_width() for patch in axes.patches] == [50.0, -25.0]
    colors = [to_hex(patch.get_facecolor()) for patch in axes.patches]
    assert colors[0] != colors[1]
    assert {"up (2)", "down (4)", "classes (videos), 2 of 3 classes"} <= set(texts(figure))
