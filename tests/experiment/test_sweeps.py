"""Names of a sweep's folders: short, readable, without collisions, and what they keep together."""

import re
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src.experiment.sweeps import job_folder, settle_folders, short_keys, sweep_folder, swept_keys
from src.utils.errors import LONGEST_NAME


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (["seed=1"], "seed-1"),
        (["seed=1", "optimizer.weight_decay=0"], "seed-1_weight_decay-0"),
        (["seed=1", "optimizer.weight_decay=0.0001"], "seed-1_weight_decay-0.0001"),
        (["data.split=2", "seed=1"], "split-2_seed-1"),
        (["seed=1", "data.seed=2"], "seed-1_data.seed-2"),
        (["a.lr=1", "b.a.lr=2", "c.lr=3"], "a.lr-1_b.a.lr-2_c.lr-3"),
        (["model.net.connection={kind:additive}"], "connection-kind-additive"),
        (["x={kind:add,stages:[1,2]}"], "x-kind-add_stages-1_2"),
        (["stages.joint.data.frame_stride=[1,5]"], "frame_stride-1_5"),
        (["model/backbone=resnet18"], "model_backbone-resnet18"),
        (["+trainer.max_steps=1"], "max_steps-1"),
        # what cannot change a result: where, how fast and for whom
        (["seed=1", "data.loader.num_workers=2", "logger=wandb"], "seed-1"),
        (["trainer.devices=4"], "job"),
        ([], "job"),
    ],
)
def test_names_of_jobs(values: list[str], name: str) -> None:
    swept = [value.partition("=")[0] for value in values]
    fixed = ["experiment=st_resnet_hmdb51", "optimizer.momentum=0.8"]
    assert job_folder([*fixed, *values], swept) == name


def test_the_order_is_that_of_the_sweep() -> None:
    assert job_folder(["seed=1", "data.split=2"], ["data.split", "seed"]) == "split-2_seed-1"


@pytest.mark.parametrize(
    "values", [("a/b", "a_b"), ("a b!", "a b?"), ("'ä'", "'é'"), ("x" * 300, "x" * 301)]
)
def test_values_that_cannot_be_in_a_name_are_told_apart(values: tuple[str, str]) -> None:
    names = [job_folder([f"x={value}"], ["x"]) for value in values]
    assert len(set(names)) == 2
    for name in names:
        assert re.fullmatch(r"[\w.+-]+", name)
        assert len(name.encode()) <= LONGEST_NAME
        (override,) = OverridesParser.create().parse_overrides([f"runs=outputs/{name}/a"])
        assert override.value() == f"outputs/{name}/a"


def test_short_keys_are_unique() -> None:
    keys = ["seed", "data.seed", "stages.joint.optimizer.lr", "optimizer.lr", "+x.lr"]
    short = short_keys(keys)
    assert list(short) == keys
    assert len(set(short.values())) == len(keys)
    assert short["seed"] == "seed"
    assert short["+x.lr"] == "x.lr"


def sweep(*overrides: str, name: str = "st_resnet_hmdb51", **params: Any) -> str:
    """The names that a sweep's command leads to: its folder, and what is swept."""
    config = OmegaConf.create(
        {
            "name": name,
            "hydra": {
                "sweeper": {"params": params or None},
                "overrides": {"task": list(overrides)},
                "sweep": {"dir": "${sweep_folder:}", "subdir": "${swept_keys:}"},
            },
        }
    )
    settle_folders(config)
    return f"{sweep_folder()}: {' '.join(swept_keys())}"


def test_the_folder_of_a_sweep_is_named_by_what_its_jobs_share() -> None:
    experiment = "experiment=st_resnet_hmdb51"
    assert sweep(experiment, "seed=1,2") == "st_resnet_hmdb51: seed"
    # a sweep that is extended by a value stays where it is, however it is trained
    faster = ("trainer=ddp", "trainer.devices=4", "paths.output_dir=/x", "hydra.verbose=true")
    assert sweep(experiment, "seed=range(1,9)", *faster) == "st_resnet_hmdb51: seed"
    fixed = ("optimizer.momentum=0.8", "model/backbone=resnet18", "~mixing", experiment)
    assert sweep(*fixed, "seed=1,2") == (
        "st_resnet_hmdb51_model_backbone-resnet18_optimizer.momentum-0.8: seed"
    )
    assert sweep("experiment=a,b", "seed=3") == "experiments_seed-3: experiment"
    grid: dict[str, Any] = {"seed": "0,1", "x.y": "{a:1},{a:2}"}
    assert sweep("sweep=claim", name="claim", **grid) == "claim: seed x.y"
    assert sweep("sweep=claim", "seed=4", name="claim", **grid) == "claim_seed-4: x.y"
    assert sweep("sweep=depth", **grid) == "st_resnet_hmdb51_sweep-depth: seed x.y"
