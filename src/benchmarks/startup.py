"""How long a command takes before it does anything, each in a process of its own."""

import subprocess
import sys
from collections.abc import Callable

from src.benchmarks.harness import Contender, Measurement, measure

EXPERIMENT = "experiment=st_resnet_hmdb51"


def startup(rounds: int) -> Measurement:
    """Starts per second of our commands, against Python with torch and Lightning imported."""

    def process(*arguments: str) -> Callable[[], int]:
        def run() -> int:
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            return 1

        return run

    return measure(
        "startup",
        "starts",
        Contender("import torch", process("-c", "import torch")),
        [
            Contender("import pytorch_lightning", process("-c", "import pytorch_lightning")),
            Contender("train --help", process("-m", "src.train", "--help")),
            Contender("train --cfg job", process("-m", "src.train", EXPERIMENT, "--cfg", "job")),
            Contender("extract_flow --help", process("-m", "src.extract_flow", "--help")),
        ],
        rounds,
    )
