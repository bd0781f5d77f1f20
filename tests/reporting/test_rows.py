"""What is averaged and what is not, how rows are called, and paired differences."""

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.experiment.config import stage_config
from src.reporting.collect import collect
from src.reporting.pairs import pair_rows
from src.reporting.results_section import sort_rows
from src.reporting.rows import Figure, Row, describe_runs, group_rows
from tests.conftest import compose_config
from tests.reporting.made_up import config_of, write_stage


def rows_below(folder: Path) -> dict[str, Row]:
    rows = group_rows(collect([str(folder)]).runs)
    return {row.name: row for row in rows}


def write_runs(folder: Path, name: str, top1: dict[tuple[int, int], float], **changes: Any) -> None:
    """Joint stages of an experiment "e", by split and seed, in the folder of a sweep."""
    for (split, seed), number in top1.items():
        config = config_of("joint", split, seed, **changes)
        place = folder / name / f"split{split}_seed{seed}" / "joint"
        write_stage(place, number, config, experiment="e", overrides=[f"seed={seed}"])


def kind(value: str) -> dict[str, Any]:
    return {"connection": {"_target_": "src.models.connection.Connection", "kind": value}}


def test_mean_and_sample_deviation() -> None:
    assert str(Figure.of([40.0, 44.0, 45.0])) == "43.0 ± 2.6"  # sqrt((9 + 1 + 4) / 2) = 2.645...
    assert str(Figure.of([40.25])) == "40.2"


def test_runs_of_splits_and_seeds_are_a_row(tmp_path: Path) -> None:
    """So are those that differ in what cannot matter; nothing of it is in the name."""
    write_runs(tmp_path, "s", {(1, 0): 40, (2, 0): 44})
    speed = {"compile": "default", "remark": "fast", "logger": {"csv": {"name": "csv"}}}
    places = {"root": "/b", "loader": {"num_workers": 9}, "flow": "/b/flow"}
    write_runs(tmp_path, "t", {(3, 0): 45}, data=places, optimizer={"fused": True}, **speed)
    (row,) = rows_below(tmp_path).values()
    assert row.name == "e joint"
    assert describe_runs(row.runs) == "split 1-3, seed 0, n=3"
    assert Figure.of([run.accuracy.top1 for run in row.runs]).mean == 43


@pytest.mark.parametrize("experiment", ["st_multiplier_hmdb51", "st_resnet_two_movers"])
def test_rows_of_composed_configs(experiment: str, tmp_path: Path) -> None:
    """They are called after overrides, but for those of split, seed, places, machine, loggers."""
    apart = (
        *("data.split=2", "seed=3", "trainer=ddp", "logger=wandb", "compile=default"),
        *("data.dataset.root=elsewhere", "paths.output_dir=elsewhere", "data.loader.num_workers=1"),
        *("model.backbone.checkpointing=true", "optimizer.fused=true", "~callbacks.lr_monitor"),
    )
    kind = "model.net.connection.kind"
    changes = ((f"{kind}=additive",), (f"{kind}=none",), ("stages.joint.optimizer.lr=0.2",))
    for number, (change, more) in enumerate(product(changes, ((), apart))):
        cfg = compose_config(
            "train", f"experiment={experiment}", f"{kind}=additive", *change, *more
        )
        run_dir = tmp_path / str(number) / f"split{cfg.data.split}_seed{cfg.seed}"
        for stage in ("appearance", "motion", "joint"):
            write_stage(run_dir / stage, number, stage_config(cfg, stage), experiment="e")
    lr = {"st_multiplier_hmdb51": 0.001, "st_resnet_two_movers": 0.05}[experiment]
    assert {name: len(row.runs) for name, row in rows_below(tmp_path).items()} == {
        "e appearance": 6,
        "e motion": 6,
        f"e joint connection.kind=additive lr={lr}": 2,
        f"e joint connection.kind=none lr={lr}": 2,
        "e joint connection.kind=additive lr=0.2": 2,
    }


def test_descriptions_of_runs(tmp_path: Path) -> None:
    write_runs(tmp_path, "s", {(1, 0): 40, (1, 1): 41, (3, 0): 44})
    write_runs(tmp_path, "t", {(1, 1): 42})
    (row,) = rows_below(tmp_path).values()
    assert describe_runs(row.runs) == "split 1, seed 0, 1; split 3, seed 0 (2 of 1/1), n=4"
    twice = [run for run in row.runs if run.seed == 1]
    assert describe_runs(twice) == "split 1, seed 1, 2 runs of each, n=2"


def test_rows_are_called_after_what_differs(tmp_path: Path) -> None:
    """`kind` alone could be that of the temporal filters; arguments of one crop go unnamed."""
    jitter = {"crop": {"_target_": "src.data.transforms.CornerJitterCrop", "jitter": 0.25}}
    resized = {"crop": {"_target_": "src.data.transforms.RandomResizedCrop", "area": [0.5, 1]}}
    write_runs(tmp_path, "a", {(1, 0): 40}, data=jitter)
    write_runs(tmp_path, "b", {(1, 0): 50}, data=resized)
    write_runs(tmp_path, "c", {(1, 0): 60}, data=resized, net=kind("none"))
    write_runs(tmp_path, "d", {(1, 1): 70}, data=resized | {"augment": None})  # null is nothing
    rows = rows_below(tmp_path)
    assert {name: [run.accuracy.top1 for run in row.runs] for name, row in rows.items()} == {
        "e joint connection.kind=additive crop=CornerJitterCrop": [40],
        "e joint connection.kind=additive crop=RandomResizedCrop": [50, 70],
        "e joint connection.kind=none crop=RandomResizedCrop": [60],
    }


def test_settings_that_go_together_are_named_once(tmp_path: Path) -> None:
    """The width of both streams; but the cap of all stages is not the length of one."""
    for name, width, cap in (("a", 8, 6), ("b", 16, 6), ("c", 16, 1)):
        streams = {stream: {"width": width} for stream in ("appearance", "motion")}
        write_runs(
            tmp_path, name, {(1, 0): 1}, net=streams, max_epochs=6, trainer={"max_epochs": cap}
        )
    assert set(rows_below(tmp_path)) == {
        "e joint trainer.max_epochs=6 width=8",
        "e joint trainer.max_epochs=6 width=16",
        "e joint trainer.max_epochs=1 width=16",
    }


def test_what_was_added_is_null_elsewhere(tmp_path: Path) -> None:
    """`+trainer.gradient_clip_val=1`, `callbacks=ema`; arguments of another class go unnamed."""
    scheduler = {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [30]}
    cosine = {"_target_": "src.models.optimization.warmup_cosine", "warmup": 0.1}
    ema = {"ema": {"_target_": "src.training.callbacks.EMA", "decay": 0.999}}
    write_runs(tmp_path, "a", {(1, 0): 1}, lr_scheduler=scheduler, trainer={}, callbacks=None)
    clipped = {"gradient_clip_val": 1}
    write_runs(tmp_path, "b", {(1, 0): 1}, lr_scheduler=cosine, trainer=clipped, callbacks=ema)
    assert set(rows_below(tmp_path)) == {
        "e joint ema=null gradient_clip_val=null lr_scheduler=MultiStepLR",
        "e joint ema=EMA gradient_clip_val=1 lr_scheduler=warmup_cosine",
    }


def test_flow_on_the_fly_is_another_row(tmp_path: Path) -> None:
    made_by = {"algorithm": "dis", "bound": 20.0}
    for number, flow in enumerate(["/a/flow", "on_the_fly", "/b/flow"]):
        config = config_of("joint", 1, number, data={"flow": flow, "flow_settings": made_by})
        write_stage(
            tmp_path / f"split1_seed{number}" / "joint", 1, config, experiment="e", flow=made_by
        )
    assert {name: len(row.runs) for name, row in rows_below(tmp_path).items()} == {
        "e joint flow=on_the_fly": 1,
        "e joint flow=stored": 2,
    }


def test_a_stage_before_that_is_gone_is_no_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_runs(tmp_path, name, {(1, 0): 40})
    write_stage(tmp_path / "b" / "split1_seed0" / "motion", 30, experiment="e")
    settings = len(rows_below(tmp_path)["e motion"].first.settings)
    names = {name for name in rows_below(tmp_path) if " joint" in name}
    assert names == {"e joint", f"e joint (settings unknown: {settings})"}


def test_stages_before_count_to_what_was_trained(tmp_path: Path) -> None:
    """Joint stages with one config are two rows if their motion streams had two."""
    for name, lr, top1 in (("a", 0.05, 40), ("b", 0.01, 50)):
        write_runs(tmp_path, name, {(1, 0): top1})
        motion = config_of("motion", optimizer={"lr": lr, "momentum": lr})
        write_stage(tmp_path / name / "split1_seed0" / "motion", 30, motion, experiment="e")
    names = {name: row for name, row in rows_below(tmp_path).items() if " joint" in name}
    assert set(names) == {
        "e joint momentum=0.05 motion.lr=0.05",
        "e joint momentum=0.01 motion.lr=0.01",
    }


def test_stages_before_may_lie_elsewhere(tmp_path: Path) -> None:
    """Where the record says, or around a checkpoint; gone ones count by their file's name."""
    for seed, source in enumerate(["motion", str(tmp_path / "s/split1_seed1/motion/last.ckpt")]):
        motion = tmp_path / "s" / f"split1_seed{seed}" / "motion"
        write_stage(motion, 30, config_of("motion", 1, seed, optimizer={"lr": 0.01}))
        start = {"appearance": None, "motion": source}
        joint = config_of("joint", 1, seed, init_from=start)
        place = tmp_path / "j" / f"split1_seed{seed}" / "joint"
        dirs = {"motion": f"../../../s/split1_seed{seed}/motion"}
        write_stage(place, 40 + seed, joint, experiment="e", stage_dirs=dirs)
    for seed in (2, 3):
        start = {"appearance": None, "motion": f"gone/split1_seed{seed}/motion/last.ckpt"}
        joint = config_of("joint", 1, seed, init_from=start)
        write_stage(tmp_path / "j" / f"split1_seed{seed}" / "joint", 50, joint, experiment="e")
    rows = {name: row for name, row in rows_below(tmp_path).items() if name.startswith("e ")}
    gone = "e joint init_from.motion=gone/split_seed/motion/last.ckpt"
    assert [run.seed for run in rows[gone].runs] == [2, 3]
    assert [run.seed for run in rows["e joint init_from.motion=motion"].runs] == [0, 1]
    settings = rows["e joint init_from.motion=motion"].first.settings
    assert settings["motion", "optimizer.lr"] == 0.01


def test_protocols_datasets_and_experiments_are_kept_apart(tmp_path: Path) -> None:
    write_runs(tmp_path, "a", {(1, 0): 40, (1, 1): 42})
    write_stage(tmp_path / "b" / "split1_seed2" / "joint", 90, protocol="other", experiment="e")
    write_stage(tmp_path / "c" / "split1_seed3" / "joint", 90, experiment="f")
    other = {"dataset": {"_target_": "src.data.splits.read_other", "seed": 0}}
    write_stage(tmp_path / "d" / "split1_seed4" / "joint", 90, config_of("joint", 1, 4, data=other))
    rows = group_rows(collect([str(tmp_path)]).runs)
    assert sorted(len(row.runs) for row in rows) == [1, 1, 1, 2]


def test_flow_decides_what_was_trained(tmp_path: Path) -> None:
    for seed, algorithm in enumerate(["tvl1", "tvl1", "dis"]):
        place = tmp_path / f"split1_seed{seed}" / "joint"
        write_stage(place, 50, experiment="e", flow={"algorithm": algorithm})
    assert {name: len(row.runs) for name, row in rows_below(tmp_path).items()} == {
        "e joint algorithm=tvl1": 2,
        "e joint algorithm=dis": 1,
    }


def test_paired_differences(tmp_path: Path) -> None:
    write_runs(tmp_path, "a", {(1, 0): 80, (1, 1): 85, (1, 2): 99}, net=kind("additive"))
    write_runs(tmp_path, "b", {(1, 0): 50, (1, 1): 52, (1, 3): 10}, net=kind("none"))
    write_runs(tmp_path, "again", {(1, 1): 54}, net=kind("none"))
    write_stage(tmp_path / "f" / "split1_seed0" / "joint", 70, experiment="f")
    write_stage(tmp_path / "p" / "split1_seed0" / "joint", 1, protocol="other", experiment="f")
    rows = sort_rows(group_rows(collect([str(tmp_path)]).runs))
    additive, other = pair_rows(rows, "kind=none")
    assert additive.row.name == "e joint connection.kind=additive"
    assert additive.differences == {(1, 0, 0): 30, (1, 1, 0): 32}  # 85 less the mean of 52 and 54
    assert (additive.mean, additive.unpaired) == (31, [(1, 2, 0), (1, 3, 0)])
    assert other.row.first.experiment == "f"
    assert other.differences == {(1, 0, 0): 20}


def test_pairs_of_one_run_directory_come_first(tmp_path: Path) -> None:
    """70 - 40 in one directory; 60 has none beside it and is compared to the mean of 40 and 52."""
    for name, joint, pooled in (("a", 50, 60), ("b", 40, 70)):
        run = tmp_path / name / "split1_seed0"
        write_stage(run / "joint", joint, experiment="e")
        write_stage(run / "joint_pooled", pooled, experiment="e")
    shutil.rmtree(tmp_path / "a" / "split1_seed0" / "joint")
    write_stage(tmp_path / "c" / "split1_seed0" / "joint", 52, experiment="e")
    (pair,) = pair_rows(group_rows(collect([str(tmp_path)]).runs), "e joint")
    assert pair.differences == {(1, 0, 0): pytest.approx(((60 - 46) + (70 - 40)) / 2)}


def test_baseline_is_one_row(tmp_path: Path) -> None:
    """Of several the one of the same run, then of the same experiment; a whole name wins."""
    for experiment, top1 in (("e", 40), ("f", 50)):
        for stage, more in (("joint", 0), ("joint_pooled", 5)):
            place = tmp_path / experiment / "split1_seed0" / stage
            write_stage(place, top1 + more, experiment=experiment)
    rows = sort_rows(group_rows(collect([str(tmp_path)]).runs))
    pairs = {pair.row.name: pair.differences[1, 0, 0] for pair in pair_rows(rows, "e joint")}
    assert pairs == {"e joint_pooled": 5, "f joint": 10, "f joint_pooled": 15}
    pairs = {pair.row.name: pair.differences[1, 0, 0] for pair in pair_rows(rows, "pooled")}
    assert pairs == {"e joint": -5, "f joint": -5}
    with pytest.raises(UserError, match="baseline=nothing is in no row's name: there are e joint;"):
        pair_rows(rows, "nothing")
    write_runs(tmp_path, "g", {(1, 0): 1}, net=kind("none"))
    rows = sort_rows(group_rows(collect([str(tmp_path)]).runs))
    with pytest.raises(UserError, match=r"in the names of several rows: e joint .*; e joint "):
        pair_rows([row for row in rows if "pooled" not in row.name], "e joint c")


def test_datasets_drawn_with_the_runs_seeds(tmp_path: Path) -> None:
    """A row over five such datasets; but runs on two datasets are no pair."""
    for seed, drawn in ((0, 0), (1, 1), (2, 0)):
        for stage, top1 in (("joint", 50), ("joint_pooled", 90)):
            data = config_of(stage, 1, seed)["data"]
            data["dataset"] |= {"seed": drawn if stage == "joint" else seed}
            place = tmp_path / "e" / f"split1_seed{seed}" / stage
            write_stage(place, top1, config_of(stage, 1, seed, data=data, init_from=None))
    rows = group_rows(collect([str(tmp_path)]).runs)
    assert [len(row.runs) for row in rows] == [3, 3]
    (pair,) = pair_rows(rows, "e joint")
    assert pair.differences == {(1, 0, 0): 40, (1, 1, 1): 40}
    assert pair.unpaired == [(1, 2, 0), (1, 2, 2)]
