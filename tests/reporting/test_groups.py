"""What is averaged and what is not, how groups are labelled, and paired differences."""

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from src.experiment.config import stage_config
from src.reporting.collect import collect
from src.reporting.groups import MeanStd, ResultGroup, describe_runs, group_runs, pair_groups
from src.utils.errors import UserError
from tests.builders import config_of, write_stage
from tests.conftest import compose_config


def groups_below(folder: Path) -> dict[str, ResultGroup]:
    groups = group_runs(collect([str(folder)])[0])
    return {group.label: group for group in groups}


def write_runs(
    folder: Path, name: str, top1: dict[tuple[int, int], float], *overrides: str, **changes: Any
) -> None:
    """Joint stages of an experiment "e", by split and seed, in the folder of a sweep.

    `overrides` are what the command gave beside split and seed, `changes` what became of them.
    """
    for (split, seed), number in top1.items():
        config = config_of("joint", split, seed, **changes)
        place = folder / name / f"split{split}_seed{seed}" / "joint"
        given = ["experiment=e", *overrides, f"data.split={split}", f"seed={seed}"]
        write_stage(place, number, config, experiment="e", overrides=given)


def kind(value: str) -> dict[str, Any]:
    return {"connection": {"_target_": "src.models.connection.Connection", "kind": value}}


def test_mean_and_sample_deviation() -> None:
    assert str(MeanStd.of([40.0, 44.0, 45.0])) == "43.0 ± 2.6"  # sqrt((9 + 1 + 4) / 2) = 2.645...
    assert str(MeanStd.of([40.25])) == "40.2"


def test_runs_of_splits_and_seeds_are_a_group(tmp_path: Path) -> None:
    """So are those that differ in what cannot matter; nothing of it is in the name."""
    write_runs(tmp_path, "s", {(1, 0): 40, (2, 0): 44})
    speed = {"compile": "default", "notes": "fast", "logger": {"csv": {"name": "csv"}}}
    dataset = config_of("joint")["data"]["dataset"] | {"root": "/b"}
    places = {"dataset": dataset, "flow": "/b/flow", "videos": {"manifest": "/b/list.csv"}}
    places["loader"] = {"num_workers": 9}
    write_runs(tmp_path, "t", {(3, 0): 45}, data=places, optimizer={"fused": True}, **speed)
    (group,) = groups_below(tmp_path).values()
    assert group.label == "e joint"
    assert describe_runs(group.runs) == "split 1-3, seed 0, n=3"
    assert MeanStd.of([run.accuracy.top1 for run in group.runs]).mean == 43


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["st_multiplier_hmdb51", "st_resnet_two_movers"])
def test_groups_of_composed_configs(experiment: str, tmp_path: Path) -> None:
    """They are labelled by overrides, but for those of split, seed, places, machine, loggers."""
    apart = (
        *("data.split=2", "seed=3", "trainer=ddp", "logger=wandb", "compile=default"),
        *("data.dataset.root=elsewhere", "paths.output_dir=elsewhere", "data.loader.num_workers=1"),
        *(
            "model.backbone.gradient_checkpointing=true",
            "optimizer.fused=true",
            "~callbacks.lr_monitor",
        ),
    )
    kind = "model.net.connection.kind"
    changes = ((f"{kind}=additive",), (f"{kind}=none",), ("stages.joint.optimizer.lr=0.2",))
    for number, (change, more) in enumerate(product(changes, ((), apart))):
        cfg = compose_config(
            "train", f"experiment={experiment}", f"{kind}=additive", *change, *more
        )
        run_dir = tmp_path / str(number) / f"split{cfg.data.split}_seed{cfg.seed}"
        for stage in ("appearance", "motion", "joint"):
            given = [f"{kind}=additive", *change, *more]
            config = stage_config(cfg, stage)
            write_stage(run_dir / stage, number, config, experiment="e", overrides=given)
    assert {label: len(group.runs) for label, group in groups_below(tmp_path).items()} == {
        "e appearance": 6,
        "e motion": 6,
        "e joint": 2,
        f"e joint {kind}=none": 2,
        "e joint stages.joint.optimizer.lr=0.2": 2,
    }


def test_descriptions_of_runs(tmp_path: Path) -> None:
    write_runs(tmp_path, "s", {(1, 0): 40, (1, 1): 41, (3, 0): 44})
    write_runs(tmp_path, "t", {(1, 1): 42})
    (group,) = groups_below(tmp_path).values()
    assert describe_runs(group.runs) == "split 1, 3, seed 0, 1, n=4"
    twice = [run for run in group.runs if run.seed == 1]
    assert describe_runs(twice) == "split 1, seed 1, n=2"


def test_groups_are_labelled_by_overrides_that_differ(tmp_path: Path) -> None:
    """But not by what all have, what cannot matter, nor what only some runs of a group have."""
    jitter = {"crop": {"_target_": "src.data.transforms.CornerJitterCrop", "jitter": 0.25}}
    resized = {"crop": {"_target_": "src.data.transforms.RandomResizedCrop", "area": [0.5, 1]}}
    crop, none = "data/crop=random_resized", "model.net.connection={kind: none}"
    given = ("data.frames=5", "trainer=ddp")
    write_runs(tmp_path, "a", {(1, 0): 40}, *given, data=jitter)
    write_runs(tmp_path, "b", {(1, 0): 50}, *given, crop, "data.loader.num_workers=3", data=resized)
    write_runs(tmp_path, "c", {(1, 0): 60}, *given, none, crop, data=resized, net=kind("none"))
    null = resized | {"augment": None}  # is nothing
    write_runs(tmp_path, "d", {(1, 1): 70}, "data.frames=5", crop, "~data.augment", data=null)
    groups = groups_below(tmp_path)
    top1 = {label: [run.accuracy.top1 for run in group.runs] for label, group in groups.items()}
    assert top1 == {"e joint": [40], f"e joint {crop}": [50, 70], f"e joint {none} {crop}": [60]}


def test_same_label_gets_the_first_key_that_differs(tmp_path: Path) -> None:
    """And the next, until all are distinguished; a class goes by its own key."""
    for name, epochs, lr, optimizer in (
        *(("a", 6, 0.05, "torch.optim.SGD"), ("b", 7, 0.05, "torch.optim.SGD")),
        *(("c", 6, 0.1, "torch.optim.SGD"), ("d", 6, 0.1, "torch.optim.AdamW")),
    ):
        change = {"_target_": optimizer, "lr": lr}
        write_runs(tmp_path, name, {(1, 0): 1}, max_epochs=epochs, optimizer=change)
    sgd = "e joint optimizer=torch.optim.SGD"
    assert set(groups_below(tmp_path)) == {
        "e joint optimizer=torch.optim.AdamW",
        f"{sgd} optimizer.lr=0.1",
        f"{sgd} optimizer.lr=0.05 max_epochs=6",
        f"{sgd} optimizer.lr=0.05 max_epochs=7",
    }


def test_flow_decides_what_was_trained(tmp_path: Path) -> None:
    """By which algorithm, and whether on the fly; but not where it lies."""
    for number, (flow, algorithm) in enumerate(
        [("/a/flow", "dis"), ("on_the_fly", "dis"), ("/b/flow", "dis"), ("/a/flow", "tvl1")]
    ):
        config = config_of("joint", 1, number, data={"flow": flow})
        place = tmp_path / f"split1_seed{number}" / "joint"
        write_stage(place, 1, config, experiment="e", flow={"algorithm": algorithm})
    assert {label: len(group.runs) for label, group in groups_below(tmp_path).items()} == {
        "e joint data.flow=False flow.algorithm=dis": 2,
        "e joint data.flow=False flow.algorithm=tvl1": 1,
        "e joint data.flow=True": 1,
    }


def test_stages_before_count_to_what_was_trained(tmp_path: Path) -> None:
    """Joint stages with one config are two groups if their motion streams are, or one is gone."""
    for name, lr, top1 in (("a", 0.05, 40), ("b", 0.01, 50)):
        write_runs(tmp_path, name, {(1, 0): top1})
        motion = config_of("motion", optimizer={"lr": lr})
        write_stage(tmp_path / name / "split1_seed0" / "motion", 30, motion, experiment="e")
    assert {label for label in groups_below(tmp_path) if " joint" in label} == {
        "e joint motion.optimizer.lr=0.05",
        "e joint motion.optimizer.lr=0.01",
    }
    shutil.rmtree(tmp_path / "b" / "split1_seed0" / "motion")
    assert {label for label in groups_below(tmp_path) if " joint" in label} == {
        "e joint motion.stage=motion",
        "e joint motion.stage=null",
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
    groups = groups_below(tmp_path)
    gone = groups["e joint init_from.motion=gone/split_seed/motion/last.ckpt"]
    assert [run.seed for run in gone.runs] == [2, 3]
    there = groups["e joint init_from.motion=motion"]
    assert [run.seed for run in there.runs] == [0, 1]
    assert there.first.identity["motion.optimizer.lr"] == "0.01"


def test_protocols_datasets_and_experiments_are_kept_apart(tmp_path: Path) -> None:
    write_runs(tmp_path, "a", {(1, 0): 40, (1, 1): 42})
    write_stage(tmp_path / "b" / "split1_seed2" / "joint", 90, protocol="other", experiment="e")
    write_stage(tmp_path / "c" / "split1_seed3" / "joint", 90, experiment="f")
    other = {"dataset": {"_target_": "src.data.splits.read_other", "seed": 0}}
    write_stage(tmp_path / "d" / "split1_seed4" / "joint", 90, config_of("joint", 1, 4, data=other))
    rows = group_runs(collect([str(tmp_path)])[0])
    assert sorted(len(row.runs) for row in rows) == [1, 1, 1, 2]


def test_paired_differences(tmp_path: Path) -> None:
    write_runs(tmp_path, "a", {(1, 0): 80, (1, 1): 85, (1, 2): 99}, net=kind("additive"))
    write_runs(tmp_path, "b", {(1, 0): 50, (1, 1): 52, (1, 3): 10}, "kind=none", net=kind("none"))
    write_runs(tmp_path, "again", {(1, 1): 54}, "kind=none", net=kind("none"))
    write_stage(tmp_path / "f" / "split1_seed0" / "joint", 70, experiment="f")
    write_stage(tmp_path / "p" / "split1_seed0" / "joint", 1, protocol="other", experiment="f")
    groups = group_runs(collect([str(tmp_path)])[0])
    additive, other = pair_groups(groups, "kind=none")
    assert additive.group.label == "e joint"
    assert additive.differences == {(1, 0, 0): 30, (1, 1, 0): 32}  # 85 less the mean of 52 and 54
    assert additive.unpaired == [(1, 2, 0), (1, 3, 0)]
    assert other.group.first.experiment == "f"
    assert other.differences == {(1, 0, 0): 20}


def test_baseline_of_the_same_run_directories_comes_first(tmp_path: Path) -> None:
    """A sweep over a learning rate: each pooled stage is compared to its own joint stage."""
    for lr, top1 in ((0.1, 40), (0.2, 50)):
        run = tmp_path / str(lr) / "split1_seed0"
        joint = config_of("joint", optimizer={"lr": lr})
        write_stage(run / "joint", top1, joint, experiment="e")
        pooled = config_of("joint_pooled", init_from="joint")
        write_stage(run / "joint_pooled", top1 + 10 * lr, pooled, experiment="e")
    pairs = pair_groups(group_runs(collect([str(tmp_path)])[0]), "e joint opt")
    assert [list(pair.differences.values()) for pair in pairs] == [[pytest.approx(1)], [2]]


def test_baseline_is_one_row(tmp_path: Path) -> None:
    """Of several the one of the same run, then of the same experiment; a full name wins."""
    for experiment, top1 in (("e", 40), ("f", 50)):
        for stage, more in (("joint", 0), ("joint_pooled", 5)):
            place = tmp_path / experiment / "split1_seed0" / stage
            write_stage(place, top1 + more, experiment=experiment)
    rows = group_runs(collect([str(tmp_path)])[0])
    pairs = {pair.group.label: pair.differences[1, 0, 0] for pair in pair_groups(rows, "e joint")}
    assert pairs == {"e joint_pooled": 5, "f joint": 10, "f joint_pooled": 15}
    pairs = {pair.group.label: pair.differences[1, 0, 0] for pair in pair_groups(rows, "pooled")}
    assert pairs == {"e joint": -5, "f joint": -5}
    with pytest.raises(UserError, match="baseline=nothing is in no row's name: there are e joint;"):
        pair_groups(rows, "nothing")
    write_runs(tmp_path, "g", {(1, 0): 1}, "kind=none", net=kind("none"))
    write_runs(tmp_path, "h", {(1, 0): 1}, "kind=x", net=kind("x"))
    rows = group_runs(collect([str(tmp_path)])[0])
    with pytest.raises(UserError, match=r"in the names of several rows: e joint .*; e joint "):
        pair_groups([row for row in rows if "pooled" not in row.label], "e joint k")


def test_datasets_drawn_with_the_runs_seeds(tmp_path: Path) -> None:
    """A row over five such datasets; but runs on two datasets are no pair."""
    for seed, drawn in ((0, 0), (1, 1), (2, 0)):
        for stage, top1 in (("joint", 50), ("joint_pooled", 90)):
            data = config_of(stage, 1, seed)["data"]
            data["dataset"] |= {"seed": drawn if stage == "joint" else seed}
            place = tmp_path / "e" / f"split1_seed{seed}" / stage
            write_stage(place, top1, config_of(stage, 1, seed, data=data, init_from=None))
    rows = group_runs(collect([str(tmp_path)])[0])
    assert [len(row.runs) for row in rows] == [3, 3]
    (pair,) = pair_groups(rows, "e joint")
    assert pair.differences == {(1, 0, 0): 40, (1, 1, 1): 40}
    assert pair.unpaired == [(1, 2, 0), (1, 2, 2)]
