"""Which stages are found, what is read from them, and what is said of the others."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from src.reporting.collect import collect
from src.utils.errors import UserError
from tests.builders import config_of, write_stage


def test_everything_below_the_folders_is_found(tmp_path: Path) -> None:
    write_stage(tmp_path / "one" / "split1_seed0" / "joint", 50)
    write_stage(tmp_path / "sweeps" / "a=1,b=2" / "split2_seed7" / "joint", 60)
    (tmp_path / "one" / "split1_seed0" / "joint" / "csv").mkdir()
    runs, _ = collect([str(tmp_path)])
    assert [(r.split, r.seed, r.accuracy.top1) for r in runs] == [(1, 0, 50), (2, 7, 60)]
    assert collect([str(tmp_path / "o*")])[0] == runs[:1]
    assert collect([str(runs[0].folder)])[0] == runs[:1]
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
    (run, notebook), _ = collect([str(tmp_path)])
    assert (run.experiment, run.dataset, run.split, run.seed) == ("e", "two_movers", 3, 2)
    assert (run.overrides, run.version) == (("seed=2",), "0.2.0")
    assert notebook.overrides is None  # not by the command


def test_one_run_counts_once(tmp_path: Path) -> None:
    """Reached by two paths, by a link, or copied; but not another run of the same seed."""
    run = tmp_path / "e" / "split1_seed0"
    write_stage(run / "joint", 50, scores={"a": (1, 0)})
    os.symlink(tmp_path / "e", tmp_path / "link")
    os.symlink(tmp_path, tmp_path / "e" / "loop")
    assert len(collect([str(tmp_path), str(run), str(tmp_path / "link")])[0]) == 1
    shutil.copytree(run, tmp_path / "copy" / "e" / "split1_seed0")
    write_stage(tmp_path / "again" / "e" / "split1_seed0" / "joint", 50, scores={"a": (2, 0)})
    runs, left_out = collect([str(tmp_path)])
    assert len(runs) == 2
    assert [reason.startswith("the same scores as") for reason in left_out.values()] == [True]


def test_late_fusion_is_a_stage_that_starts_from_two(tmp_path: Path) -> None:
    """It is distinguished by its streams; one that a sweep has copied counts with each partner."""
    streams = {"appearance": "appearance", "motion": "motion"}
    for lr, row in ((0.1, (0, 1)), (0.2, (3, 0))):
        run = tmp_path / str(lr) / "split1_seed3"
        write_stage(run / "appearance", 100, scores={"a": (2, 0)}, experiment="e")
        changed = config_of("motion", 1, 3, optimizer={"lr": lr})
        write_stage(run / "motion", 0, changed, scores={"a": row}, experiment="e")
        fusion = config_of("late_fusion", 1, 3, network=None, model={}, init_from=streams)
        write_stage(run / "late_fusion", 75, fusion, scores={"a": row}, experiment="e")
    shutil.copytree(run, tmp_path / "copy" / "split1_seed3")
    runs, left_out = collect([str(tmp_path)])
    counts = Counter(run.stage for run in runs)
    assert counts == {"appearance": 1, "late_fusion": 2, "motion": 2}
    assert len(left_out) == 4
    fusions = [run for run in runs if run.stage == "late_fusion"]
    assert [run.identity["motion.optimizer.lr"] for run in fusions] == ["0.1", "0.2"]
    assert [(run.split, run.seed, run.accuracy.top1) for run in fusions] == [(1, 3, 75)] * 2


def test_classifiers_are_recorded(tmp_path: Path) -> None:
    motion = {"top1": 12.5, "videos": 8, "top5": 1.0, "mean_class": 2.0}
    write_stage(tmp_path / "e" / "split1_seed0" / "joint", 50, streams={"motion": motion})
    (run,), _ = collect([str(tmp_path)])
    assert {name: a.top1 for name, a in run.classifiers.items()} == {"motion": 12.5}


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
    runs, reasons = collect([str(tmp_path)])
    assert len(runs) == 1
    assert len(reasons) == 8
    assert "an accuracy is not a number" in reasons[nan]
    assert all("\n" not in reason for reason in reasons.values())
    resume = f"""to resume it: python -m src.train 'a='"'"'x y'"'"'' paths.run_dir={good}"""
    assert reasons[stopped] == f"not finished: stopped while it trained; {resume}"
    assert reasons[begun] == f"not finished: no epoch is complete; {resume}"


def test_what_a_command_left_open_stays_open(tmp_path: Path, monkeypatch: Any) -> None:
    """Neither does an unknown variable stop the report, nor does a known one get into it."""
    (tmp_path / ".hydra").mkdir()
    given = ["a=${oc.env:NO_SUCH_THING}/x", "b=${oc.env:SECRET}", "seed=${data.split}"]
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps(given))
    (tmp_path / "joint").mkdir()
    (tmp_path / "joint" / "last.ckpt").touch()
    monkeypatch.setenv("SECRET", "word")
    _, left_out = collect([str(tmp_path)])
    assert all(one in left_out[tmp_path / "joint"] for one in given)


def test_what_hydra_has_left_is_as_large_as_its_text(tmp_path: Path) -> None:
    """An alias stands for what comes before it, and may do so a billion times."""
    write_stage(tmp_path / "good" / "split1_seed0" / "joint", 50)
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / "joint").mkdir()
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    merged = [
        "a0: &a0 {x: 1}",
        *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)),
    ]
    for text in (
        "\n".join([*lines, "stages: {joint: *a39}"]),
        "\n".join([*merged, "stages: {joint: {<<: *a39}}"]),
        "stages: {joint: {}}" + " " * 10**6,
    ):
        (run / ".hydra" / "config.yaml").write_text(text)
        runs, reasons = collect([str(tmp_path)])
        assert (len(runs), reasons) == (1, {})


def test_part_of_the_test_videos_is_another_protocol(tmp_path: Path) -> None:
    dataset = {"dataset": {"_target_": "src.data.splits.read_hmdb51", "root": "/h"}}
    folder = tmp_path / "e" / "split2_seed0" / "joint"
    write_stage(folder, 50, config_of("joint", 2, data=dataset))
    (run,), _ = collect([str(tmp_path)])
    assert run.protocol.endswith("; 8 of 1530 videos")
    record = json.loads((folder / "stage.json").read_text())
    record["accuracy"]["videos"] = 1530
    (folder / "stage.json").write_text(json.dumps(record))
    (run,), _ = collect([str(tmp_path)])
    assert (run.dataset, run.partial, "videos" in run.protocol) == ("hmdb51", False, False)
