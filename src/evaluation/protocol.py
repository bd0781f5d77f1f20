"""Test protocols: what a network sees of a video, how its scores are averaged, and what it is
called. No number is printed or logged without the name of its protocol.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from src.data.transforms import mirror_flow, mirror_rgb
from src.models.modules import Batch
from src.utils.errors import UserError
from src.utils.values import check_choice

CROPS = ("whole", "ten", "centre")
AVERAGES = ("logits", "softmax")
_MIRRORS = {"rgb": mirror_rgb, "flow": mirror_flow}


@dataclass(frozen=True)
class TestProtocol:
    """The views of a video, and the mean over them, over time and (by the module) over streams.

    Args:
        frames: of a video, evenly spaced (data.test.frames).
        short_side: smaller side of a frame in pixels.
        crop_size: side of a crop in pixels.
        crop: "whole" takes whole frames, which networks read fully convolutionally (ST-ResNet's
            released implementation); "ten" the four corners and the centre, with their mirror
            images ten views (Simonyan & Zisserman 2014); "centre" the centre.
        mirror: whether every view is also seen in a mirror. Only for data whose labels allow it:
            without, ten crops are five.
        average: "logits" averages the scores themselves (the released implementation), "softmax"
            the softmax of each view, frame and stream. The positions of a view that is read fully
            convolutionally are averaged before the softmax, inside the network.
        tested_on: in words, None for the test list.

    Raises:
        ValueError: an unknown choice, or a crop larger than the frames.
    """

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    frames: int
    short_side: int
    crop_size: int
    crop: str = "whole"
    mirror: bool = True
    average: str = "logits"
    tested_on: str | None = None

    def __post_init__(self) -> None:
        check_choice("protocol.crop", self.crop, CROPS)
        check_choice("protocol.average", self.average, AVERAGES)
        if self.crop != "whole" and self.crop_size > self.short_side:
            raise ValueError(
                f"protocol.crop={self.crop} cuts {self.crop_size} pixels out of frames of "
                f"{self.short_side}: lower data.crop_size, or use protocol=whole_frames"
            )

    @property
    def name(self) -> str:
        """In words, for tables and logs."""
        if self.crop == "ten":
            views = f"frames x {10 if self.mirror else 5} crops of {self.crop_size} px"
        else:
            whole = self.crop == "whole"
            views = "whole frames" if whole else f"centre crops of {self.crop_size} px"
            views += " + mirror" if self.mirror else ""
        name = f"{self.frames} {views} at {self.short_side} px, mean of {self.average}"
        return name if self.tested_on is None else f"{name}; on {self.tested_on}"

    def views(self, batch: Batch) -> Iterator[Batch]:
        """What the network is to see of a uint8 batch, one after the other to save memory.

        Args:
            batch: "rgb" (B, 3, T, H, W) and/or "flow" (B, 2L, T, H, W).

        Raises:
            UserError: the frames are smaller than the crop.
        """
        clips = {name: batch[name] for name in _MIRRORS if name in batch}
        for top, left, height, width in self._boxes(*next(iter(clips.values())).shape[-2:]):
            view = {
                name: clip[..., top : top + height, left : left + width]
                for name, clip in clips.items()
            }
            yield batch | view
            if self.mirror:
                yield batch | {name: _MIRRORS[name](clip) for name, clip in view.items()}

    def _boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """Top, left, height and width of every crop of frames (height, width)."""
        if self.crop == "whole":
            return [(0, 0, height, width)]
        side = self.crop_size
        bottom, right = height - side, width - side
        if min(bottom, right) < 0:
            raise UserError(
                f"frames of {height} x {width} pixels are smaller than the crop of {side}: "
                "lower data.crop_size, or use protocol=whole_frames"
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
                scores = (values.softmax(-1) if self.average == "softmax" else values).mean(1)
                total[stream] = total[stream] + scores if stream in total else scores
        return {stream: scores / count for stream, scores in total.items()}

    def probabilities(self, scores: Tensor) -> Tensor:
        """Class probabilities from scores (..., K) of this protocol."""
        return scores if self.average == "softmax" else scores.softmax(-1)
