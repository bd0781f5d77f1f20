"""What is learnt and what is measured does not depend on how many processes share the work."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src import evaluate, features, fuse
from src.evaluation.scores import VideoScores
from src.training.pipeline import run_experiment
from tests.conftest import compose_config
from tests.processes import Command, run_as_ranks

pytestmark = pytest.mark.slow


def run(module: str, *overrides: str, folder: Path) -> str:
    """A command on two processes of its own launcher; what it prints."""
    ddp = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    command = Command(module, [*overrides, *ddp], folder)
    assert command.wait() == 0, command.errors
    return command.output


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
        "two processes": ["stages.appearance.data.batch_size=3"],
    }
    learnt, lost = {}, {}
    for name, way in ways.items():
        folder = tmp_path / name.replace(" ", "_")
        overrides = [*base, *shared, *way, f"paths.run_dir={folder}"]
        if name == "two processes":
            status, printed = run_as_ranks(overrides, tmp_path)
            assert status == [0, 0], printed
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


def test_scores_are_the_same_on_three_processes(finished_run: Path, tmp_path: Path) -> None:
    """One of them has fewer videos than the others."""
    checkpoint, output = finished_run / "joint" / "last.ckpt", tmp_path / "scores.csv"
    overrides = [f"ckpt_path={checkpoint}", f"output={output}"]
    status, printed = run_as_ranks(
        overrides, tmp_path, command="evaluate", work=evaluate._score, devices=3
    )
    assert status == [0, 0, 0], printed
    assert printed.count("protocol: ") == 1
    assert_same_scores(output, finished_run / "joint" / "scores.csv")


def test_each_job_of_a_sweep_of_tests_is_one_group(finished_run: Path, tmp_path: Path) -> None:
    stages = ("appearance", "joint")
    for stage in stages:
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "last.ckpt").symlink_to(finished_run / stage / "last.ckpt")
    checkpoints = ",".join(str(tmp_path / stage / "last.ckpt") for stage in stages)
    sweep = ("-m", f"ckpt_path={checkpoints}", f"hydra.sweep.dir={tmp_path}")
    printed = run("src.evaluate", *sweep, folder=tmp_path)
    assert printed.count("protocol: ") == 2
    for stage in stages:
        scores = tmp_path / stage / "evaluation" / "scores.csv"
        assert_same_scores(scores, finished_run / stage / "scores.csv")


def test_fusion_is_the_same_on_two_processes(finished_run: Path, tmp_path: Path) -> None:
    checkpoints = [str(finished_run / stage / "last.ckpt") for stage in ("appearance", "joint")]
    overrides = [f"inputs={checkpoints}", f"output={tmp_path / 'fused.csv'}"]
    status, printed = run_as_ranks(overrides, tmp_path, command="fuse", work=fuse._fuse)
    assert status == [0, 0], printed
    assert printed.count("protocol: ") == 1
    alone = [VideoScores.load(Path(file).with_name("scores.csv")).scores for file in checkpoints]
    together = VideoScores.load(tmp_path / "fused.csv").scores
    assert_close(together, torch.stack(alone).mean(0), rtol=1e-6, atol=1e-6)


def test_features_are_the_same_on_two_processes(
    finished_run: Path, call: Callable[..., int], tmp_path: Path
) -> None:
    """The second by its own launcher."""
    checkpoint = f"ckpt_path={finished_run / 'joint' / 'last.ckpt'}"
    files = [tmp_path / "alone.npz", tmp_path / "together.npz"]
    shared = (checkpoint, "lists=[train]")
    on_cpu = ("trainer.accelerator=cpu", "+data.loader.num_workers=0")
    assert call(features.main, *shared, f"output={files[0]}", *on_cpu) == 0
    run("src.features", *shared, f"output={files[1]}", folder=tmp_path)
    alone, together = map(np.load, files)
    assert alone.files == together.files
    for name in alone.files:
        if alone[name].dtype.kind == "f":
            np.testing.assert_allclose(together[name], alone[name], rtol=1e-6, atol=1e-6)
        else:
            assert (alone[name] == together[name]).all(), name


def assert_same_scores(file: Path, wanted: Path) -> None:
    scores, alone = read(file), read(wanted)
    assert list(scores) == list(alone)
    for video, row in alone.items():
        np.testing.assert_allclose(scores[video], row, rtol=1e-6, atol=1e-6)


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
