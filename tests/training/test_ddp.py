"""Two processes train and test together: every video is scored once, through all stages."""

import csv
import subprocess
import sys
from pathlib import Path

from tests.conftest import TINY


def test_two_processes_run_all_stages_and_score_every_video_once(tmp_path: Path) -> None:
    batches = [
        f"stages.{stage}.{key}={size}"
        for stage in ("appearance", "motion")
        for key, size in (("batch_size", 8), ("data.batch_size", 4))
    ]
    command = [sys.executable, "-m", "src.train", "experiment=two_stream_two_movers", *TINY]
    command += [*batches, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    command += ["data.dataset.num_train=17", "data.dataset.num_test=9"]  # uneven for two
    command += [f"data.dataset.root={tmp_path / 'data'}", f"paths.run_dir={tmp_path / 'run'}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    for stage in ("appearance", "motion"):
        with (tmp_path / "run" / stage / "scores.csv").open() as file:
            videos = [row["video"] for row in csv.DictReader(file)]
        assert len(videos) == len(set(videos)) == 9
