"""Late fusion of two streams: a stage of its own, made once and again when a stream changes."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.evaluation.scores import VideoScores, video_accuracies
from src.experiment.run_dir import StageDir
from src.training.late_fusion import LATE_FUSION, load_fused, write_late_fusion
from src.training.pipeline import run_experiment
from tests.conftest import compose_config

STREAMS = ("appearance", "motion")


@pytest.fixture
def stages(copied_run: Path) -> dict[str, StageDir]:
    return {stream: StageDir(copied_run / stream) for stream in STREAMS}


def test_it_is_a_finished_stage_without_a_checkpoint(finished_run: Path) -> None:
    stage_dir = StageDir(finished_run / LATE_FUSION)
    record = stage_dir.finished()
    assert record is not None
    motion = json.loads((finished_run / "motion" / "stage.json").read_text())
    assert (record["protocol"], record["version"]) == (motion["protocol"], motion["version"])
    assert record["config"]["data"] == motion["config"]["data"]
    assert (record["faults"], record["streams"]) == ([], {})
    scores = VideoScores.load(stage_dir.scores())
    assert scores.protocol == record["protocol"]
    assert video_accuracies(scores).top1 == record["accuracy"]["top1"]
    assert {path.name for path in stage_dir.path.iterdir()} == {
        *("stage.json", "scores.csv", "scores.protocol.txt")
    }
    fused = load_fused(stage_dir.path)
    mean = torch.stack([part.scores for part in fused.parts.values()]).mean(0)
    torch.testing.assert_close(fused.scores.scores, mean)


@pytest.mark.slow
def test_it_is_made_where_a_finished_run_lacks_it(tiny: tuple[str, ...], copied_run: Path) -> None:
    before = json.loads((copied_run / LATE_FUSION / "stage.json").read_text())
    shutil.rmtree(copied_run / LATE_FUSION)
    run_experiment(compose_config("train", *tiny, f"paths.run_dir={copied_run}"))
    assert json.loads((copied_run / LATE_FUSION / "stage.json").read_text()) == before


def test_it_is_written_again_when_a_stream_has_other_scores(stages: dict[str, StageDir]) -> None:
    stage_dir = StageDir(stages["motion"].path.with_name(LATE_FUSION))
    written = stage_dir.record.stat().st_mtime_ns
    assert write_late_fusion(stages) is not None
    assert stage_dir.record.stat().st_mtime_ns == written
    scores = VideoScores.load(stages["motion"].scores())
    right = torch.nn.functional.one_hot(torch.tensor(scores.labels), 8) * 1e4
    replace(scores, scores=right).save(stages["motion"].scores())
    assert write_late_fusion(stages) is not None
    record = stage_dir.finished()
    assert record is not None
    assert record["accuracy"]["top1"] == 100


@pytest.mark.parametrize("what", ["videos", "protocol"])
def test_streams_that_do_not_fit_are_not_fused(
    what: str, stages: dict[str, StageDir], caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is there what was fused before."""
    scores = VideoScores.load(stages["appearance"].scores())
    other: dict[str, Any] = {
        "videos": [f"other_{name}" for name in scores.videos],
        "protocol": "ten crops",
    }
    replace(scores, **{what: other[what]}).save(stages["appearance"].scores())
    assert write_late_fusion(stages) is None
    reasons = {"videos": "different lists of videos", "protocol": "tested in two ways: 11 full"}
    assert "no late fusion: " in caplog.text
    assert reasons[what] in caplog.text
    assert StageDir(stages["motion"].path.with_name(LATE_FUSION)).finished() is None


def test_a_lone_stream_is_not_fused(stages: dict[str, StageDir]) -> None:
    assert write_late_fusion({"motion": stages["motion"]}) is None
    stages["appearance"].record.unlink()
    assert write_late_fusion(stages) is None


def test_shared_streams_have_one_late_fusion(
    tiny: tuple[str, ...], copied_run: Path, tmp_path: Path
) -> None:
    """Beside the streams, and in the table of every run that shares them."""
    shutil.rmtree(copied_run / LATE_FUSION)
    shared = ("experiment=two_stream_two_movers", f"paths.streams_dir={copied_run}")
    run = tmp_path / "other"
    run.mkdir()
    run_experiment(compose_config("train", *tiny, *shared, f"paths.run_dir={run}", "resume=force"))
    assert StageDir(copied_run / LATE_FUSION).finished() is not None
    with (run / "results.csv").open() as file:
        rows = {row["name"]: row["stage"] for row in csv.DictReader(file)}
    assert rows == {
        "appearance": "appearance",
        "motion": "motion",
        "late fusion of both": LATE_FUSION,
    }
