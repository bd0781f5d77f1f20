"""How long a command takes before it does anything, each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from src.benchmarks.first_batch import in_seconds
from src.benchmarks.harness import Contender, Measurement, measure
from src.experiment.config import StageConfig

EXPERIMENT = "experiment=st_resnet_hmdb51"


def startup(config: StageConfig, folder: Path, videos: int, rounds: int) -> Measurement:
    """Starts per second of our commands, against Python with torch imported.

    Args:
        config: of a stage on the dataset of `src.benchmarks.first_batch`.
        folder: for a file.
        videos: of that dataset.
        rounds: of the measurement.
    """
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    measurement = measure(
        "startup",
        "starts",
        Contender("import torch", _process("-c", "import torch")),
        [
            Contender("import pytorch_lightning", _process("-c", "import pytorch_lightning")),
            Contender("train --help", _process("-m", "src.train", "--help")),
            Contender("train --cfg job", _process("-m", "src.train", EXPERIMENT, "--cfg", "job")),
            Contender("train no_key=1", _process("-m", "src.train", "no_key=1", status=1)),
            Contender("extract_flow --help", _process("-m", "src.extract_flow", "--help")),
            Contender(
                "first batch",
                _process("-m", "src.benchmarks.first_batch", str(file)),
                f"of {videos} videos",
            ),
        ],
        rounds,
    )
    return in_seconds(measurement)


def _process(*arguments: str, status: int = 0) -> Callable[[], int]:
    def run() -> int:
        done = subprocess.run([sys.executable, *arguments], check=False, capture_output=True)
        if done.returncode != status:
            raise subprocess.CalledProcessError(done.returncode, arguments, stderr=done.stderr)
        return 1

    return run
