"""Training clips as the network gets them: out of the loader, normalized, mixed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from matplotlib.figure import Figure
from torch import Tensor

from src.data.datamodule import VideoDataModule
from src.experiment.build import build_datamodule, build_module, build_net
from src.experiment.config import StageConfig
from src.models.modules import Batch
from src.models.normalize import Normalize
from src.plotting.clips import Strip, clip_images, draw_strips

LABELS = 0.5  # inches


@dataclass(frozen=True)
class TrainingClips:
    """A batch on its way into the network.

    Args:
        loaded: as the loader gives it, after crop, mirroring and augmentation, uint8.
        net_input: what the network gets of each modality, normalized and mixed, (B, C, T, H, W).
        target: labels (B,), or the shares of the classes (B, K) if clips are mixed.
        normalize: what has normalized them.
        class_names: in the order of the labels.
    """

    loaded: Batch
    net_input: dict[str, Tensor]
    target: Tensor
    normalize: Normalize
    class_names: tuple[str, ...]

    def restored(self) -> Batch:
        """What the network gets, as levels 0..255 again: `loaded`, if nothing is mixed."""
        levels = {name: self.normalize.restore(name, x) for name, x in self.net_input.items()}
        return self.loaded | levels

    def titles(self) -> list[str]:
        """What each clip is trained as, e.g. "walk", or "70 % walk, 30 % run" if mixed."""
        if self.target.ndim == 1:
            return [self.class_names[label] for label in self.target.tolist()]
        return [
            ", ".join(
                f"{100 * share:.0f} % {self.class_names[label]}"
                for label, share in sorted(enumerate(shares), key=lambda item: -item[1])
                if share > 0
            )
            for shares in self.target.tolist()
        ]

    def statistics(self) -> dict[str, dict[str, float]]:
        """Mean, deviation, minimum and maximum of what the network gets of each modality.

        Of normalized input means are near 0, and deviations of RGB near 1.
        """
        return {
            name: {
                "mean": float(x.mean()),
                "std": float(x.std()),
                "min": float(x.min()),
                "max": float(x.max()),
            }
            for name, x in self.net_input.items()
        }


def training_clips(config: StageConfig, data: VideoDataModule | None = None) -> TrainingClips:
    """The first batch of a stage's first epoch, by the very code that trains on it.

    Args:
        config: of the stage.
        data: its data; None builds them from the config.

    Raises:
        UserError: the data are not there.
    """
    data = data or build_datamodule(config)
    data.prepare_data()
    data.setup()
    with torch.device("meta"):  # only what comes before the network is run
        net = build_net(config)
    module = build_module(config, net, total_steps=1)
    loaded = next(ready(data, data.train_dataloader()))
    net_input, target = module.training_clips(loaded)
    return TrainingClips(loaded, net_input, target, module.normalize, data.videos.classes)


def ready(
    data: VideoDataModule,
    loader: Iterable[Batch],
    device: str | torch.device = "cpu",
    limit: int | None = None,
) -> Iterator[Batch]:
    """Batches of a loader on a device, their flow computed where that happens there.

    Args:
        data: the loader's.
        loader: one of its loaders.
        device: to move batches to.
        limit: how many batches; None is all.
    """
    for batch in islice(loader, limit):
        yield data.ready(batch, device)


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
    return "normalized input: " + "; ".join(
        f"{name} mean {of['mean']:.2f}, deviation {of['std']:.2f}, {of['min']:.1f} to "
        f"{of['max']:.1f}"
        for name, of in clips.statistics().items()
    )
