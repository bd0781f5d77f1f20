"""What is learnt and what is measured does not depend on how many processes share the work."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src.training.pipeline import run_experiment
from tests.conftest import compose_config


def on(devices: int) -> list[str]:
    return ["trainer=ddp", f"trainer.devices={devices}", "trainer.accelerator=cpu"]


def run(module: str, *overrides: str) -> str:
    command = [sys.executable, "-m", module, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    return state


def losses(folder: Path) -> list[float]:
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        return [
            float(row["train/loss_epoch"])
            for row in csv.DictReader(file)
            if row["train/loss_epoch"]
        ]


def test_one_large_batch_several_small_ones_and_two_processes_learn_the_same(
    tiny: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    """12 clips an update: at once, in parts, on two processes; the last update of an epoch has 4.

    Frozen batch norm, because its statistics are those of what a device sees at once. In 64 bits:
    in 32, where an activation is next to zero, a ReLU may open for one order of a sum alone, and
    weights then differ by 1e-4, on one process as well.
    """
    shared = [
        "experiment=appearance_two_movers",
        f"stages.appearance.init_from={finished_run / 'appearance' / 'last.ckpt'}",
        "batch_norm=frozen",
        "class_weights=[8,7,6,5,4,3,2,1]",
        "stages.appearance.model.appearance.dropout=0",
        "stages.appearance.effective_batch_size=12",
        "trainer.max_epochs=3",
        "trainer.precision=64-true",
    ]
    base = [override for override in tiny if "max_epochs" not in override]
    ways = {
        "at once": ["stages.appearance.data.batch_size=12"],
        "accumulated": ["stages.appearance.data.batch_size=3"],
        "two processes": ["stages.appearance.data.batch_size=3", *on(2)],
    }
    learnt, lost = {}, {}
    for name, way in ways.items():
        folder = tmp_path / name.replace(" ", "_")
        overrides = [*base, *shared, *way, f"paths.run_dir={folder}"]
        if name == "two processes":
            run("src.train", *overrides)
        else:
            run_experiment(compose_config("train", *overrides))
        learnt[name] = weights(folder / "appearance")
        lost[name] = losses(folder / "appearance")
    start = weights(finished_run / "appearance")
    moved = max(float((learnt["at once"][k] - start[k]).abs().max()) for k in start)
    assert moved > 1e-3
    for name in ("accumulated", "two processes"):
        assert len(lost[name]) == 3
        assert lost[name] == pytest.approx(lost["at once"], rel=1e-6)
        for key, tensor in learnt["at once"].items():
            assert_close(learnt[name][key], tensor, rtol=1e-9, atol=1e-12, msg=f"{name}: {key}")


@pytest.mark.parametrize("devices", [2, 3])
def test_scores_are_the_same_on_any_number_of_processes(
    devices: int, finished_run: Path, tmp_path: Path
) -> None:
    checkpoint, output = finished_run / "joint" / "last.ckpt", tmp_path / "scores.csv"
    printed = run("src.evaluate", f"ckpt_path={checkpoint}", f"output={output}", *on(devices))
    assert printed.count("protocol: ") == 1
    alone, together = (read(path) for path in (finished_run / "joint" / "scores.csv", output))
    assert list(together) == list(alone)
    for video, scores in alone.items():
        np.testing.assert_allclose(together[video], scores, rtol=1e-6, atol=1e-6)


def test_each_job_of_a_sweep_of_tests_is_one_group(finished_run: Path, tmp_path: Path) -> None:
    stages = ("appearance", "joint")
    for stage in stages:
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "last.ckpt").symlink_to(finished_run / stage / "last.ckpt")
    checkpoints = ",".join(str(tmp_path / stage / "last.ckpt") for stage in stages)
    sweep = ("-m", f"ckpt_path={checkpoints}", f"hydra.sweep.dir={tmp_path}")
    printed = run("src.evaluate", *sweep, *on(2))
    assert printed.count("protocol: ") == 2
    for stage in stages:
        scored = read(tmp_path / stage / "evaluation" / "scores.csv")
        assert list(scored) == list(read(finished_run / stage / "scores.csv"))
    both, output = checkpoints.replace(",", "','"), tmp_path / "fused.csv"
    printed = run("src.fuse", f"inputs=['{both}']", f"output={output}", *on(2))
    assert printed.count("protocol: ") == 1
    assert list(read(output)) == list(scored)


def test_features_are_the_same_on_two_processes(finished_run: Path, tmp_path: Path) -> None:
    found = []
    for name, devices in (("alone", ()), ("together", on(2))):
        output = tmp_path / f"{name}.npz"
        checkpoint = f"ckpt_path={finished_run / 'joint' / 'last.ckpt'}"
        run("src.features", checkpoint, f"output={output}", "lists=[train]", *devices)
        found.append(np.load(output))
    assert found[0].files == found[1].files
    for name in found[0].files:
        alone, together = (one[name] for one in found)
        if alone.dtype.kind == "f":
            np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)
        else:
            assert (alone == together).all(), name


def read(path: Path) -> dict[str, np.ndarray]:
    with path.open() as file:
        _, *rows = csv.reader(file)
    assert len({row[0] for row in rows}) == len(rows)  # no video twice
    return {row[0]: np.array(row[2:], dtype=float) for row in rows}


def test_the_same_seed_gives_the_same_run(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """Bit for bit, on the CPU; another seed gives another."""
    runs = []
    for number, seed in enumerate((5, 5, 6)):
        overrides = [f"seed={seed}", f"paths.run_dir={tmp_path / str(number)}"]
        run_experiment(
            compose_config("train", "experiment=appearance_two_movers", *tiny, *overrides)
        )
        runs.append(weights(tmp_path / str(number) / "appearance"))
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not torch.equal(runs[0]["net.conv1.weight"], runs[2]["net.conv1.weight"])
