"""Which stages are found, what is read from them, and what is said of the others."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.reporting.collect import LATE_FUSION, collect
from src.reporting.records import overrides_beside
from tests.reporting.made_up import config_of, write_stage


def test_everything_below_the_folders_is_found(tmp_path: Path) -> None:
    write_stage(tmp_path / "one" / "split1_seed0" / "joint", 50)
    write_stage(tmp_path / "sweeps" / "a=1,b=2" / "split2_seed7" / "joint", 60)
    (tmp_path / "one" / "split1_seed0" / "joint" / "csv").mkdir()
    runs = collect([str(tmp_path)]).runs
    assert [(r.split, r.seed, r.accuracy.top1) for r in runs] == [(1, 0, 50), (2, 7, 60)]
    assert collect([str(tmp_path / "o*")]).runs == runs[:1]
    assert collect([str(runs[0].folder)]).runs == runs[:1]
    with pytest.raises(UserError, match=r"runs=.*nowhere does not exist"):
        collect([str(tmp_path), str(tmp_path / "nowhere")])


def test_the_record_says_what_was_run(tmp_path: Path) -> None:
    """Whatever the folders around it are called, and Hydra has left there."""
    recorded: dict[str, Any] = {"overrides": ["seed=2"], "version": "0.2.0"}
    config = config_of("joint", 3, 2)
    folder = write_stage(
        tmp_path / "x" / "split1_seed0" / "joint", 70, config, experiment="e", **recorded
    )
    (folder.parent / ".hydra").mkdir()
    (folder.parent / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    write_stage(tmp_path / "y" / "split1_seed0" / "joint", 70)
    run, notebook = collect([str(tmp_path)]).runs
    assert (run.experiment, run.dataset, run.split, run.seed) == ("e", "two_movers", 3, 2)
    assert (run.overrides, run.version) == (("seed=2",), "0.2.0")
    assert notebook.overrides is None  # not by the command


def test_one_run_counts_once(tmp_path: Path) -> None:
    """Reached by two paths, by a link, or copied; but not another run of the same seed."""
    run = tmp_path / "e" / "split1_seed0"
    write_stage(run / "joint", 50, scores={"a": (1, 0)})
    os.symlink(tmp_path / "e", tmp_path / "link")
    os.symlink(tmp_path, tmp_path / "e" / "loop")
    assert len(collect([str(tmp_path), str(run), str(tmp_path / "link")]).runs) == 1
    shutil.copytree(run, tmp_path / "copy" / "e" / "split1_seed0")
    write_stage(tmp_path / "again" / "e" / "split1_seed0" / "joint", 50, scores={"a": (2, 0)})
    found = collect([str(tmp_path)])
    assert len(found.runs) == 2
    assert [p.reason.startswith("the same scores as") for p in found.problems] == [True]


def test_late_fusion_is_the_mean_of_logits(tmp_path: Path) -> None:
    """Of 4 videos, fusion is right where the sum favours the label: a1, a2 and b2."""
    run = tmp_path / "e" / "split1_seed3"
    appearance = {"a1": (3, 0), "a2": (0, 1), "b1": (2, 0), "b2": (0, 1)}
    motion = {"b2": (0, 1), "b1": (0, 1), "a2": (4, 0), "a1": (0, 1)}
    write_stage(run / "appearance", 50, scores=appearance)
    write_stage(run / "motion", 75, scores=motion)
    fused = next(r for r in collect([str(tmp_path)]).runs if r.stage == LATE_FUSION)
    assert (fused.split, fused.seed, fused.folder) == (1, 3, run)
    assert (fused.accuracy.top1, fused.accuracy.videos) == (75, 4)
    assert fused.accuracy.mean_class == 75  # both of the first class, one of two of the second


def test_copied_stream_is_fused_with_each_partner(tmp_path: Path) -> None:
    """A sweep over the motion stream trains the same appearance stream in every job."""
    for lr, row in ((0.1, (0, 1)), (0.2, (3, 0))):
        run = tmp_path / str(lr) / "split1_seed0"
        write_stage(run / "appearance", 100, scores={"a": (2, 0)}, experiment="e")
        changed = config_of("motion", optimizer={"lr": lr})
        write_stage(run / "motion", 0, changed, scores={"a": row}, experiment="e")
    shutil.copytree(run, tmp_path / "copy" / "split1_seed0")
    runs = collect([str(tmp_path)]).runs
    assert sorted(run.stage for run in runs) == ["appearance", *[LATE_FUSION] * 2, *["motion"] * 2]


def test_streams_that_do_not_fit_are_not_fused(tmp_path: Path) -> None:
    run = tmp_path / "e" / "split1_seed0"
    write_stage(run / "appearance", 50, scores={"a": (1, 0)})
    write_stage(run / "motion", 50, config_of("motion", seed=1), scores={"a": (1, 0)})
    other = tmp_path / "f" / "split1_seed0"
    write_stage(other / "appearance", 50, scores={"a": (1, 0)})
    write_stage(other / "motion", 50, scores={"b": (1, 0)})
    reasons = [problem.reason for problem in collect([str(tmp_path)]).problems]
    assert reasons[0] == "no late fusion: the streams differ in their seed (0, 1)"
    assert reasons[1].startswith("no late fusion: scores of different lists of videos")


def test_heads_are_recorded(tmp_path: Path) -> None:
    """Of other numbers that a later version may add, nothing is read."""
    motion = {"top1": 12.5, "videos": 8, "top5": 1.0, "mean_class": 2.0, "top3": 9.0}
    write_stage(tmp_path / "e" / "split1_seed0" / "joint", 50, streams={"motion": motion})
    (run,) = collect([str(tmp_path)]).runs
    assert {head: a.top1 for head, a in run.heads.items()} == {"motion": 12.5}


def test_broken_and_unfinished_stages_are_told(tmp_path: Path) -> None:
    good = tmp_path / "e" / "split1_seed0"
    write_stage(good / "joint", 50)
    for number, text in enumerate(["{", "[]", "{}", '{"config": {"data": 3}}', "[" * 10**5]):
        folder = write_stage(tmp_path / "broken" / f"split1_seed{number}" / "joint", 50)
        (folder / "stage.json").write_text(text)
    nan = write_stage(tmp_path / "nan" / "split1_seed0" / "joint", float("nan"))
    stopped = good / "joint_pooled"
    stopped.mkdir()
    (stopped / "last.ckpt").touch()
    begun = good / "motion"
    begun.mkdir()
    (good / "wandb").mkdir()
    (good / ".hydra").mkdir()
    (good / ".hydra" / "config.yaml").write_text("name: e\nstages: {joint: {}, motion: {}}\n")
    (good / ".hydra" / "overrides.yaml").write_text("- a='x y'\n")
    found = collect([str(tmp_path)])
    assert len(found.runs) == 1
    reasons = {problem.folder: problem.reason for problem in found.problems}
    assert len(reasons) == 8
    assert "an accuracy is not a number" in reasons[nan]
    assert all("\n" not in reason for reason in reasons.values())
    go_on = f"""python -m src.train 'a='"'"'x y'"'"'' paths.run_dir={good} goes on"""
    assert reasons[stopped] == f"not finished: stopped while it trained; {go_on}"
    assert reasons[begun] == f"not finished: no pass is complete; {go_on}"


def test_what_a_command_left_open_stays_open(tmp_path: Path, monkeypatch: Any) -> None:
    """Neither does an unknown variable stop the report, nor does a known one get into it."""
    (tmp_path / ".hydra").mkdir()
    given = ["a=${oc.env:NO_SUCH_THING}/x", "b=${oc.env:SECRET}", "seed=${data.split}"]
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps(given))
    monkeypatch.setenv("SECRET", "word")
    assert overrides_beside(tmp_path) == tuple(given)


def test_part_of_the_test_videos_is_another_protocol(tmp_path: Path) -> None:
    dataset = {"dataset": {"_target_": "src.data.splits.read_hmdb51", "root": "/h"}}
    folder = tmp_path / "e" / "split2_seed0" / "joint"
    write_stage(folder, 50, config_of("joint", 2, data=dataset))
    run = collect([str(tmp_path)]).runs[0]
    assert run.protocol.endswith("; 8 of 1530 videos")
    record = json.loads((folder / "stage.json").read_text())
    record["accuracy"]["videos"] = 1530
    (folder / "stage.json").write_text(json.dumps(record))
    run = collect([str(tmp_path)]).runs[0]
    assert (run.dataset, run.partial, "videos" in run.protocol) == ("hmdb51", False, False)
