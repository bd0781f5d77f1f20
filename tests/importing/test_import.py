"""Imported models compute what their files do, to rounding; the reference is `dagnn`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.evaluation.evaluate import load_module
from src.importing.checkpoint import Imported, import_model
from tests.importing.dagnn import DagNN
from tests.importing.released_mat import Net, base_stream, joined

pytestmark = pytest.mark.slow


def two(depth: int = 50, motion_depth: int = 50, classes: int = 51) -> tuple[Net, Net]:
    return (
        base_stream(3, depth, classes=classes, seed=1),
        base_stream(20, motion_depth, classes=classes, seed=2, dropout=True),
    )


# Name of the file, how its network is made, frames, height and width.
MODELS: dict[str, tuple[str, Callable[[], Net], int, int, int]] = {
    "appearance": ("hmdb51-img-resnet50-split1-dr0.mat", lambda: base_stream(3), 1, 229, 247),
    "motion": (
        "ucf101-resnet50-split2-dr0.8.mat",
        lambda: base_stream(20, classes=101, dropout=True, epsilon=None),
        1,
        224,
        195,
    ),
    "motion 152": (
        "hmdb51-flow-resnet152-split3-dr0.8.mat",
        lambda: base_stream(20, 152, dropout=True, epsilon=1e-4),
        1,
        195,
        199,
    ),
    "ST-ResNet stage 1": (
        "hmdb51-ST-ResNet50-split=1.mat",
        lambda: joined(*two(), "Sum", None),
        5,
        195,
        229,
    ),
    "ST-ResNet stage 2": (
        "ucf101ST-ResNet50-final-split=2.mat",
        lambda: joined(*two(classes=101), "Sum", (5, 2)),
        11,
        195,
        197,
    ),
    "ST-MulNet 50/50": (
        "hmdb51ST-MulNet-img50-flow50-final-split=3.mat",
        lambda: joined(*two(), "Mul", (5, 1)),
        5,
        229,
        197,
    ),
    "ST-MulNet 50/152": (
        "ucf101ST-MulNet-img50-flow152-split=1.mat",
        lambda: joined(*two(50, 152, classes=101), "Mul", (5, 1)),
        6,
        195,
        199,
    ),
}


# torchvision's ResNet-50 has 25,557,032 with 1000 classes; then conv1's bias, 101 classes, and the
# running means and variances of its batch norms, as many as their scales and shifts.
PARAMETERS = 25_557_032 + 64 - 899 * 2049 + 53_120


def released_order(classes: list[str]) -> list[int]:
    """Where the release has each class: as here, but for two pairs of HMDB51."""
    order = list(classes)
    for one, other in (("kick", "kick_ball"), ("sword", "sword_exercise")):
        if one in order:
            first, second = order.index(one), order.index(other)
            order[first], order[second] = other, one
    return [order.index(name) for name in classes]


def clips(frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """uint8 RGB frames (T, 3, H, W) and flow (T, 20, H, W)."""
    generator = torch.Generator().manual_seed(3)
    rgb, flow = (
        torch.randint(0, 256, (frames, channels, height, width), generator=generator)
        for channels in (3, 20)
    )
    return rgb.to(torch.uint8), flow.to(torch.uint8)


def reference(path: Path, rgb: Tensor, flow: Tensor, classes: int) -> list[Tensor]:
    """What the file itself makes of clips: logits (T', K) of each of its classifiers."""
    net = DagNN(path)
    image, inputs = net.average_image, {}
    if len(image) != 20:
        inputs["input"] = rgb.double() - image[-3:, None, None]
    if len(image) != 3:
        name = "input" if len(image) == 20 else "input_flow"
        inputs[name] = flow.double() - image[:20, None, None]
    return net.predictions(inputs, classes)


def largest_error(path: Path, imported: Imported, frames: int, height: int, width: int) -> float:
    """Between the file's logits and those of its checkpoint, relative to the spread of the file's.

    The checkpoint is saved, loaded, and computes in float64.
    """
    imported.save(path.with_suffix(".ckpt"))
    module, description = load_module(str(path.with_suffix(".ckpt")))
    rgb, flow = clips(frames, height, width)
    batch = {
        "rgb": rgb.transpose(0, 1)[None],  # (1, 3, T, H, W)
        "flow": flow.transpose(0, 1)[None],
    }
    with torch.inference_mode():
        ours = module.double().logits(batch)
        theirs = reference(path, rgb, flow, len(description.class_names))
    assert len(ours) == len(theirs)
    errors = []
    order = released_order(description.class_names)
    for logits, expected in zip(ours.values(), theirs, strict=True):
        assert logits[0].shape == expected.shape
        spread = expected.std(0).mean() if len(expected) > 1 else expected.std()
        assert spread > 1e-3 * expected.abs().max()  # else anything would do
        errors.append(float((logits[0] - expected[:, order]).abs().max() / spread))
    return max(errors)


@pytest.mark.parametrize("model", MODELS)
def test_checkpoint_computes_what_the_file_does(model: str, tmp_path: Path) -> None:
    name, make, frames, height, width = MODELS[model]
    path = make().save(tmp_path / name)
    imported = import_model(path, None)
    error = largest_error(path, imported, frames, height, width)
    print(f"{model}: largest relative error {error:.1e}")
    assert error < 1e-5


def test_real_width(tmp_path: Path) -> None:
    """A ResNet-50 as wide as the released ones, at the size that it was trained at."""
    net = base_stream(3, width=64, classes=101)
    path = net.save(tmp_path / "ucf101-img-resnet50-split1-dr0.mat", compress=False)
    imported = import_model(path, None)
    assert sum(weight.tensor.numel() for weight in imported.weights.values()) == PARAMETERS
    error = largest_error(path, imported, 1, 224, 224)
    print(f"appearance at its real width: largest relative error {error:.1e}")
    assert error < 1e-5
