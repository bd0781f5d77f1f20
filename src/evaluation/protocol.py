"""Test protocols: what a network sees of a video, how its scores are averaged, and what it is
called. No number is printed or logged without the name of its protocol.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from src.data.dataset import MODALITIES
from src.data.transforms import hflip
from src.models.modules import Batch
from src.utils.errors import UserError
from src.utils.values import check_choice

CROPS = ("full_frame", "ten", "center")
AVERAGES = ("logits", "probabilities")


@dataclass(frozen=True)
class TestProtocol:
    """The views of a video, and the mean over them, over time and (by the module) over streams.

    Raises:
        ValueError: an unknown choice, or a crop larger than the frames.
    """

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    frames: int  # of a video, evenly spaced (data.test.frames)
    short_side: int  # smaller side of a frame in pixels
    crop_size: int  # side of a crop in pixels
    # Full frames, which networks read fully convolutionally (ST-ResNet's released implementation);
    # "ten": the four corners and the center, with their mirror images ten views (Simonyan &
    # Zisserman 2014); "center".
    crop: str = "full_frame"
    # Whether every view is also seen in a mirror. Only for data whose labels allow it: without, ten
    # crops are five.
    hflip: bool = True
    # The mean of the scores themselves (the released implementation), or of "probabilities": the
    # softmax of each view, frame and stream. The positions of a view that is read fully
    # convolutionally are averaged before the softmax, inside the network.
    average_over: str = "logits"
    tested_on: str | None = None  # in words, None for the test list

    def __post_init__(self) -> None:
        check_choice("protocol.crop", self.crop, CROPS)
        check_choice("protocol.average_over", self.average_over, AVERAGES)
        if self.crop != "full_frame" and self.crop_size > self.short_side:
            raise ValueError(
                f"protocol.crop={self.crop} cuts {self.crop_size} pixels out of frames of "
                f"{self.short_side}: lower data.crop_size, or use protocol=full_frames"
            )

    @property
    def name(self) -> str:
        """In words, for tables and logs."""
        if self.crop == "ten":
            views = f"frames x {10 if self.hflip else 5} crops of {self.crop_size} px"
        else:
            full = self.crop == "full_frame"
            views = "full frames" if full else f"center crops of {self.crop_size} px"
            views += " + flip" if self.hflip else ""
        name = f"{self.frames} {views} at {self.short_side} px, mean of {self.average_over}"
        return name if self.tested_on is None else f"{name}; on {self.tested_on}"

    def views(self, batch: Batch) -> Iterator[Batch]:
        """What the network is to see of a uint8 batch, one after the other to save memory.

        Args:
            batch: "rgb" (B, 3, T, H, W) and/or "flow" (B, 2L, T, H, W).

        Raises:
            UserError: the frames are smaller than the crop.
        """
        clips = {name: batch[name] for name in MODALITIES if name in batch}
        for top, left, height, width in self._boxes(*next(iter(clips.values())).shape[-2:]):
            view = {
                name: clip[..., top : top + height, left : left + width]
                for name, clip in clips.items()
            }
            yield batch | view
            if self.hflip:
                yield batch | {name: hflip(name, clip) for name, clip in view.items()}

    def _boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """Top, left, height and width of every crop of frames (height, width)."""
        if self.crop == "full_frame":
            return [(0, 0, height, width)]
        side = self.crop_size
        bottom, right = height - side, width - side
        if min(bottom, right) < 0:
            raise UserError(
                f"frames of {height} x {width} pixels are smaller than the crop of {side}: "
                "lower data.crop_size, or use protocol=full_frames"
            )
        places = [(bottom // 2, right // 2)]
        if self.crop == "ten":
            places += [(0, 0), (0, right), (bottom, 0), (bottom, right)]
        return [(top, left, side, side) for top, left in places]

    def video_scores(
        self, logits: Callable[[Batch], dict[str, Tensor]], batch: Batch
    ) -> dict[str, Tensor]:
        """Scores (B, K) of each stream, averaged over views and time.

        Args:
            logits: of a batch of clips, for each stream (B, T', K).
            batch: uint8 videos, see `views`.
        """
        total: dict[str, Tensor] = {}
        count = 0
        for view in self.views(batch):
            count += 1
            for stream, values in logits(view).items():
                values = values.float()
                if self.average_over == "probabilities":
                    values = values.softmax(-1)
                scores = values.mean(1)
                total[stream] = total[stream] + scores if stream in total else scores
        return {stream: scores / count for stream, scores in total.items()}

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class probabilities from scores (..., K) of this protocol."""
        return scores if self.average_over == "probabilities" else scores.softmax(-1)
