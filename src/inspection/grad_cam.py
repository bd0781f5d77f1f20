"""Grad-CAM: where in a clip the evidence for a class lies, for each stream."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from src.media.sources import Uint8
from src.models.connection import STAGES
from src.models.metrics import mean_of_streams
from src.models.modules import Batch, VideoClassifier
from src.models.resnet import FUSION_BLOCK, ResNet
from src.models.two_stream import TwoStreamResNet
from src.plotting.charts import plain
from src.plotting.clips import Strip, clip_images, draw_strips

LABELS = 1.6  # inches
STRENGTH = 0.65  # of the heat over the image
_SEEN = {"appearance": "rgb", "motion": "flow"}


@dataclass(frozen=True)
class HeatMaps:
    """Where a stream's features speak for a class."""

    stream: str  # whose features they are, and whose input they are to be laid over
    classifier: str  # the stream whose classifier they speak to
    classes: Tensor  # (B,) of each clip
    maps: Tensor  # (B, T, H, W) in 0..1; 1 is a clip's strongest place, a clip without any is 0


def grad_cam(
    module: VideoClassifier, batch: Batch, classes: Tensor | None = None
) -> list[HeatMaps]:
    """Heat maps of each stream, from the output of its last stage to its own classifier's logits.

    Where motion enters the appearance stream, another shows which part of it reaches the appearance
    classifier: the motion features f(x_m) at the last stage with a connection, whose only way to
    that classifier is the connection itself.

    Channels are weighted by their gradient's mean over all places and frames of a clip.

    Args:
        module: a stream alone or a joint net; it is in evaluation mode meanwhile.
        batch: uint8 clips (B, C, T, H, W) of its modalities, on its device.
        classes: (B,) to explain; None for those that the net predicts.

    Returns:
        Maps of the size of the clips.

    Source: Selvaraju et al. 2017, over T, H and W instead of H and W.
    """
    # Gradients of the input, so that they also reach the features of a net with frozen weights.
    clips = {name: clip.requires_grad_() for name, clip in module.clips(batch).items()}
    height, width = next(iter(clips.values())).shape[-2:]
    with module.evaluating(), torch.enable_grad(), _recorded(module.net) as features:
        logits = module.classify(clips)
        scores = {stream: values.mean(1) for stream, values in logits.items()}  # (B, K)
    net = mean_of_streams(scores)
    classes = net.argmax(1) if classes is None else classes.to(net.device)
    heat_maps = []
    for (stream, classifier), recorded in features.items():
        classifier = classifier or next(iter(scores))  # a stream alone has one
        chosen = scores[classifier].gather(1, classes[:, None]).sum()
        gradient = torch.autograd.grad(chosen, recorded, retain_graph=True)[0]
        activation = F.relu(recorded.detach())
        maps = _scaled(_weighted(activation, gradient, len(classes)), (height, width))
        heat_maps.append(HeatMaps(stream or classifier, classifier, classes, maps))
    return heat_maps


def _weighted(activation: Tensor, gradient: Tensor, clips: int) -> Tensor:
    """The channels' weighted sum (B, T, h, w) of features (B * T, C, h, w), where positive."""
    activation, gradient = (x.unflatten(0, (clips, -1)) for x in (activation, gradient))
    weights = gradient.mean((1, 3, 4), keepdim=True)  # (B, 1, C, 1, 1)
    return F.relu((weights * activation).sum(2))


def _scaled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    highest = maps.amax((1, 2, 3), keepdim=True)
    return maps / torch.where(highest > 0, highest, 1)


@contextlib.contextmanager
def _recorded(net: nn.Module) -> Iterator[dict[tuple[str, str], Tensor]]:
    """Features (B * T, C, h, w) that a net computes meanwhile, by their stream and the classifier.

    Both names are "" for a stream alone.
    """
    streams = {"": net} if isinstance(net, ResNet) else dict(net.named_children())
    places: dict[tuple[str, str], nn.Module] = {
        (name, name): stream.stages[-1]
        for name, stream in streams.items()
        if isinstance(stream, ResNet)
    }
    if isinstance(net, TwoStreamResNet):
        connected = [stage for stage in STAGES if "appearance" in net.connection.into(stage)]
        for stage in connected[-1:]:
            places["motion", "appearance"] = net.motion.stages[stage - 1].block(FUSION_BLOCK - 1)
    features: dict[tuple[str, str], Tensor] = {}
    handles = [
        place.register_forward_hook(
            lambda _module, _inputs, output, key=key: features.__setitem__(key, output)
        )
        for key, place in places.items()
    ]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def draw_heat_maps(
    batch: Mapping[str, Tensor], heat_maps: Sequence[HeatMaps], clip: int = 0, title: str = ""
) -> Figure:
    """Draw the frames and flow of one of the explained clips, each above the heat of its stream.

    The title may be the video and the class that is explained.
    """
    strips = []
    for modality, images in clip_images(batch, clip).items():
        strips.append(Strip(modality, images))
        for heat in heat_maps:
            if _SEEN.get(heat.stream) != modality:
                continue
            label = f"{heat.stream} for the\n{heat.classifier} classifier"
            if heat.stream == heat.classifier:
                label = f"{heat.stream}\nfor its classifier"
            strips.append(Strip(label, heated(images, heat.maps[clip])))
    return draw_strips(strips, LABELS, plain(title))


def heated(images: Uint8, maps: Tensor) -> Uint8:
    """Images (T, H, W, 3) in grey under the colors of maps (T, H, W) in 0..1."""
    heat = matplotlib.colormaps["inferno"](maps.cpu().numpy())[..., :3] * 255  # (T, H, W, 3)
    grey = images.mean(-1, keepdims=True)
    return np.rint(STRENGTH * heat + (1 - STRENGTH) * grey).astype(np.uint8)
