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
    """A batch on its way into the network."""

    loaded: Batch  # as the loader gives it, after crop, mirroring and augmentation, uint8
    net_input: dict[str, Tensor]  # (B, C, T, H, W) by modality, normalized and mixed
    target: Tensor  # labels (B,), or the shares of the classes (B, K) if clips are mixed
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
        names = ("mean", "std", "min", "max")
        return {
            modality: {name: float(getattr(x, name)()) for name in names}
            for modality, x in self.net_input.items()
        }


def training_clips(config: StageConfig, data: VideoDataModule | None = None) -> TrainingClips:
    """The first batch of a stage's first epoch, by the very code that trains on it.

    The stage's data are built from its config if they are not given.

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
    """At most `limit` batches of one of the data's loaders on a device, with their flow."""
    for batch in islice(loader, limit):
        yield data.ready(batch, device)


def draw_training_clips(clips: TrainingClips, count: int = 3) -> Figure:
    """Draw the first clips as the network gets them, with their videos and what they train."""
    batch, strips = clips.restored(), []
    for clip, trained_as in enumerate(clips.titles()[:count]):
        title = f"{batch['video'][clip]}: {trained_as}"
        for modality, images in clip_images(batch, clip).items():
            strips.append(Strip(modality, images, title))
            title = ""
    about = "; ".join(
        f"{name} mean {of['mean']:.2f}, deviation {of['std']:.2f}, {of['min']:.1f} to "
        f"{of['max']:.1f}"
        for name, of in clips.statistics().items()
    )
    return draw_strips(strips, LABELS, about=f"normalized input: {about}")
