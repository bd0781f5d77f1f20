"""What several tests need."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from torch import nn

from src.data.datamodule import VideoDataModule, VideoTest
from src.data.splits import Split
from src.data.transforms import CornerJitterCrop
from src.media.images import FlowImages, open_images
from src.media.sources import FlowSource, RGBSource, Uint8

# Real clips: not part of the project, the tests on them are skipped where they are absent.
CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"


def write_video(
    path: Path, frames: npt.NDArray[np.uint8], fps: int = 25, codec: str = "libx264"
) -> Path:
    """Write RGB frames (N, H, W, 3), H and W even, nearly without loss; MPEG-4 without libx264."""
    codec = codec if codec in av.codecs_available else "mpeg4"
    quality = {"crf": "10"} if codec == "libx264" else {"qmin": "1", "qmax": "2"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=quality)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_flow(root: Path, video: str, fields: Uint8) -> Path:
    """Write quantized fields (N, H, W, 2) in the released layout, nearly without loss."""
    for component, images in zip("uv", np.moveaxis(fields, -1, 0), strict=True):
        folder = root / component / video
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images, start=1):
            file = folder / f"frame{number:06d}.jpg"
            assert cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return root


def dequantize(image: Uint8, bound: float = 20.0) -> npt.NDArray[np.float32]:
    """Invert `src.flow.algorithm.quantize` to within half a step, bound / 255 pixels."""
    return image.astype(np.float32) * np.float32(2.0 * bound / 255.0) - np.float32(bound)


def stored_flow(root: Path, video: str) -> FlowImages:
    """The flow of a video below `root`."""
    return FlowImages(open_images(root), video)


def frames_of(source: RGBSource, indices: Sequence[int]) -> Uint8:
    """Frames as one array (N, H, W, 3)."""
    return np.stack(list(source.rgb(indices)))


def fields_of(source: FlowSource, indices: Sequence[int]) -> Uint8:
    """Quantized fields as one array (N, H, W, 2)."""
    return np.stack([np.stack(field, axis=-1) for field in source.flow(indices)])


def randomise(net: nn.Module) -> None:
    """Make a net testable to rounding: float64, eval mode, nothing left at 0 or 1."""
    net.double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for centered in (module.running_mean, module.bias.data):
                centered.normal_(0, 0.2)
            for positive in (module.running_var, module.weight.data):
                positive.uniform_(0.4, 1.2)
        elif isinstance(module, nn.Linear):  # initially next to nothing
            module.weight.data.normal_()
            module.bias.data.normal_()


# Arguments of `VideoDataModule` for small clips of both modalities.
SMALL_DATA: dict[str, Any] = {
    "rgb": "videos",
    "flow": "flow",
    "split": 1,
    "num_classes": 2,
    "modalities": ["rgb", "flow"],
    "frames": 3,
    "flow_stack": 4,
    "short_side": 32,
    "crop": CornerJitterCrop(24),
    "crop_size": 24,
    "hflip": True,
    "test": VideoTest(5),
    "batch_size": 2,
    "loader": {"num_workers": 0},
    "seed": 7,
}


def small_datamodule(dataset: Callable[[], Split], **changes: Any) -> VideoDataModule:
    """A data module of `SMALL_DATA` with some changes, set up."""
    module = VideoDataModule(dataset, **SMALL_DATA | changes)
    module.prepare_data()
    module.setup()
    return module
