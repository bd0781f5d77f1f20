"""What several tests need."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

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
