"""`hydra/launcher=slurm`: what is asked of SLURM, and what is refused before that."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from src import train
from src.cli import QUEUED
from src.experiment.compose import CONF_DIR
from src.training import group, launch

LAUNCHER = "hydra/launcher=slurm"
BY_FOUR = ("trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2")


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("train", overrides=[LAUNCHER, *overrides], return_hydra_config=True)


def test_a_task_for_each_device() -> None:
    cfg = composed(*BY_FOUR)
    launcher = cfg.hydra.launcher
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (2, 4, 4)
    assert launcher.name == "st_resnet_two_movers"


def test_its_keys_are_the_launchers() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    known = OmegaConf.structured(SlurmQueueConf)
    assert set(composed().hydra.launcher) <= set(known)


MISTAKES = [
    (["-m", "trainer=ddp"], "trainer.devices=auto"),
    (["-m", *BY_FOUR, "hydra.launcher.tasks_per_node=8"], "tasks_per_node=8 does not fit"),
    (["-m", *BY_FOUR, "hydra.launcher.nodes=1"], "nodes=1 does not fit trainer.num_nodes=2"),
    (["-m", "trainer=ddp", "trainer.devices=1,2"], "trainer.devices is swept"),
    (["-m", "trainer=default,ddp"], "trainer is swept"),
    ([], "add -m"),
]


@pytest.mark.parametrize(("overrides", "named"), MISTAKES)
def test_mistakes_are_one_line_before_anything_is_queued(
    overrides: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(group, "PLUGIN", "hydra")  # as if it were installed
    status, lines = call(overrides, tmp_path, monkeypatch, capfd)
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("error:")
    assert named in lines[0]
    assert not list(tmp_path.iterdir())


def test_without_the_extra_its_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(group, "PLUGIN", "hydra_plugins.nothing")
    status, lines = call(["-m", *BY_FOUR], tmp_path, monkeypatch, capfd)
    assert status == 1
    assert lines == [
        "error: hydra/launcher=slurm needs hydra-submitit-launcher, which is not installed: "
        'pip install -e ".[slurm]"'
    ]


def call(
    overrides: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> tuple[object, list[str]]:
    """The status of the command, and the lines it tells."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train", *overrides, LAUNCHER])
    with pytest.raises(SystemExit) as end:
        train.main()
    return end.value.code, capfd.readouterr().err.strip().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("queued", "status"), [(True, -1), (False, 1)])
def test_a_job_that_is_queued_again_has_not_failed(
    queued: bool,
    status: int,
    call: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """submitit then ends its processes so; out of a queue nothing but a failure does."""

    def end(*_: Any) -> None:
        sys.exit(-1)

    monkeypatch.setattr(launch, "run_on_all_devices", end)
    if queued:
        monkeypatch.setenv(QUEUED, "slurm")
    assert call(train.main, "-m", f"paths.output_dir={tmp_path}") == status
