"""The table that a sweep ends in: which jobs, in which order, with which results and means."""

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from src.reporting.sweep import FILE_NAME, jobs_of_sweep, print_job, report_sweep
from src.training.run_record import RunRecord

FIXED = ("experiment=x", "optimizer.momentum=0.8", "trainer.devices=2", "~mixing")
WHOLE, PART = "11 full frames", "11 full frames, of the validation part"


def sweep(root: Path, *swept: str) -> DictConfig:
    """The config of a sweep's command."""
    return OmegaConf.create(
        {
            "name": "x",
            "hydra": {
                "sweeper": {"params": None},
                "overrides": {"task": [*FIXED, *swept]},
                "sweep": {"dir": str(root)},
            },
        }
    )


def write_job(root: Path, *swept: str, top1: float | None = None, **about: Any) -> Path:
    """A job's directory; without a result its last stage is not finished."""
    folder = root / "_".join(swept).replace("=", "-")
    protocol, fused = about.pop("protocol", WHOLE), about.pop("late_fusion", None)
    given = (*FIXED, *about.pop("more", ()), *swept, f"paths.run_dir={folder}")
    stages = {name: name for name in ("appearance", "motion", "joint")}
    folder.mkdir(parents=True)
    defaults: dict[str, Any] = {"state": "done", "began": time.time(), "seconds": 61.0}
    RunRecord(given, stages, **defaults | about).save(folder)
    results = {"joint": top1, "late_fusion": fused}
    if fused is not None:
        results |= {"appearance": 1.0, "motion": 2.0}
    for stage, result in results.items():
        if result is not None:
            (folder / stage).mkdir()
            accuracy = {"videos": 8, "top1": result, "top5": 100.0, "mean_class": result / 2}
            record = {"config": {"network": None}, "accuracy": accuracy, "epochs": 3}
            (folder / stage / "stage.json").write_text(json.dumps(record | {"protocol": protocol}))
    return folder


def table(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_jobs_in_the_order_of_the_sweep_and_means_over_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for seed, top1 in ((10, 50.0), (2, 70.0)):
        for decay, less in (("0.1", 0.0), ("0", 20.0)):
            values = (f"seed={seed}", f"optimizer.weight_decay={decay}")
            write_job(tmp_path, *values, top1=top1 - less, late_fusion=30.0)
    report_sweep(sweep(tmp_path, "seed=2,10", "optimizer.weight_decay=0,0.1"), time.time())
    text = table(capsys)
    rows = ["2 0 50.0", "2 0.1 70.0", "10 0 30.0", "10 0.1 50.0"]
    places = [text.index(f"{row} 30.0 3 0:01:01 done") for row in rows]
    assert places == sorted(places)
    assert "seed ┃ weight_decay ┃ joint % ┃ late fusion % ┃ epochs ┃ time ┃ state" in text
    assert text.index("0.1 60.0 ± 14.1 2") < text.index("0 40.0 ± 14.1 2")  # the best first
    assert f"protocol: {WHOLE}" in text
    assert f"python -m src.report runs={tmp_path}" in text
    with (tmp_path / FILE_NAME).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["seed"] for line in lines] == ["2", "2", "10", "10"]
    assert lines[0]["optimizer.weight_decay"] == "0"
    assert (lines[1]["top1"], lines[1]["mean_class"]) == ("70.0", "35.0")
    assert lines[1]["directory"] == str(tmp_path / "seed-2_optimizer.weight_decay-0.1")


def test_what_became_of_each_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_job(tmp_path, "seed=0", top1=50.0, state="resumed")
    write_job(tmp_path, "seed=1", state="failed", reason="lr=abc: needs a number")
    write_job(tmp_path, "seed=2", state="pruned")
    write_job(tmp_path, "seed=3", state="running")
    write_job(tmp_path, "seed=4", top1=10.0, state="stopped", protocol=PART)
    for folder in sorted(tmp_path.iterdir()):
        print_job(folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"seed-0: joint top-1 50.0 %, resumed, 0:01:01, {tmp_path / 'seed-0'}"
    assert lines[1].startswith("seed-1: failed: lr=abc: needs a number, 0:01:01, ")
    report_sweep(sweep(tmp_path, "seed=range(0,5)"), time.time())
    text = table(capsys)
    assert "0 50.0 3 0:01:01 resumed 1" in text
    assert "1 0:01:01 failed: lr=abc: needs a number" in text
    assert "2 0:01:01 pruned" in text
    assert "3 0:01:01 killed, or still running" in text
    assert "4 10.0 3 0:01:01 stopped 2" in text
    assert f"protocol 1: {WHOLE} protocol 2: {PART}" in text
    assert "±" not in text  # one result is no mean


def test_other_jobs_of_the_folder_are_none_of_the_sweep(tmp_path: Path) -> None:
    mine = write_job(tmp_path, "seed=1", top1=50.0, began=0.0)
    write_job(tmp_path, "seed=2", top1=50.0)  # not asked for
    write_job(tmp_path, "seed=3", state="failed", began=0.0)  # in an earlier call
    write_job(tmp_path, "seed=1", "optimizer.weight_decay=0", top1=50.0)  # of another grid
    write_job(tmp_path / "more", "seed=1", top1=50.0)
    other = write_job(tmp_path, "data.split=1", "seed=3", more=("mixing=mixup",), top1=50.0)
    assert other.is_dir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("[")
    (found,) = jobs_of_sweep(sweep(tmp_path, "seed=1,3"), time.time())
    assert found.folder == mine
    faster = sweep(tmp_path, "seed=1,3", "trainer.devices=4", "logger=csv", "hydra.verbose=true")
    assert [job.folder for job in jobs_of_sweep(faster, time.time())] == [mine]


def test_a_sweep_without_jobs_has_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_sweep(sweep(tmp_path / "absent", "seed=1,2"), time.time())
    assert capsys.readouterr().out == ""
