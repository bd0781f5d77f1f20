"""A run that is stopped anywhere, in any way, ends with the weights of one that was not."""

import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch

from src.errors import UserError
from src.training.pipeline import run_experiment
from src.training.stop import SIGNALS, EndAtSignals
from tests.conftest import compose_config

# 8 steps of 2 clips in a pass, 2 steps to an update, dropout from the real config
SHORT = (
    "experiment=motion_two_movers",
    "stages.motion.batch_size=4",
    "stages.motion.data.batch_size=2",
    "stages.motion.module.schedule.epochs=2",
    "trainer.max_epochs=2",
)
HERE = "tests.training.test_stop_and_go"
Weights = dict[str, torch.Tensor]


class Clips(pl.Callback):
    """Keeps what every step has seen; the same object for all runs of a test."""

    seen: ClassVar[dict[tuple[int, int], tuple[Any, ...]]] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        content = (tuple(batch["video"]), int(batch["flow"].sum()))
        Clips.seen[trainer.current_epoch, batch_idx] = content


class Interrupt(Clips):
    """Sends a signal to its own process in the middle of something."""

    def __init__(self, what: str, at: Sequence[int], number: int, rank: int = 0) -> None:
        self.what, self.at, self.number, self.rank = what, tuple(at), number, rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._strike("step", trainer, batch_idx)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        self._strike("validation", trainer, batch[1])

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        self._strike("test", trainer, batch[1])

    def _strike(self, what: str, trainer: pl.Trainer, batch_idx: int) -> None:
        epoch = 0 if what == "test" else trainer.current_epoch
        if trainer.global_rank == self.rank and (what, (epoch, batch_idx)) == (self.what, self.at):
            os.kill(os.getpid(), self.number)


def run(folder: Path, *overrides: str, kind: str = f"{HERE}.Clips") -> Weights:
    watch = f"+callbacks.watch._target_={kind}"
    run_experiment(compose_config("train", *overrides, watch, f"paths.run_dir={folder}"))
    return weights(folder, "motion")


def weights(folder: Path, stage: str) -> Weights:
    state: Weights = torch.load(folder / stage / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def undisturbed(
    tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Weights, dict[tuple[int, int], Any]]:
    Clips.seen = {}
    torch.set_num_threads(1)
    ended = run(tmp_path_factory.mktemp("undisturbed"), *tiny, *SHORT)
    return ended, Clips.seen


@pytest.mark.parametrize(
    ("what", "at", "extra"),
    [
        ("step", (0, 2), ()),  # the first of two steps to an update
        ("step", (1, 3), ("data.num_workers=2",)),
        ("step", (0, 7), ()),  # the last of a pass
        ("validation", (0, 0), ()),
        ("step", (1, 7), ()),  # the last of all
        ("test", (0, 1), ()),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_stop_changes_nothing(
    what: str,
    at: tuple[int, int],
    extra: tuple[str, ...],
    number: signal.Signals,
    tiny: tuple[str, ...],
    undisturbed: tuple[Weights, dict[tuple[int, int], Any]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Clips.seen = {}
    how = (f"+callbacks.watch.{key}={value}" for key, value in (("what", what), ("at", list(at))))
    strike = (*how, f"+callbacks.watch.number={int(number)}")
    overrides = [*tiny, *SHORT, *extra]
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, *overrides, *strike, kind=f"{HERE}.Interrupt")
    assert stopped.value.code == 128 + number
    assert capfd.readouterr().err.count(f"stopped by {number.name}: the same command goes on") == 1
    before = dict(Clips.seen)
    assert not (tmp_path / "motion" / "stage.json").exists()
    ended = run(tmp_path, *overrides)
    wanted, clips = undisturbed
    assert Clips.seen == clips
    if what == "step":  # nothing is done twice: the second run saw the rest alone
        again = torch.load(tmp_path / "motion" / "last.ckpt", weights_only=True)["global_step"]
        assert again == 8
        assert max(before) in {at, (at[0], at[1] + 1)}
    for key, tensor in wanted.items():
        assert torch.equal(ended[key], tensor), key


def _train(overrides: Sequence[str]) -> None:
    torch.set_num_threads(1)
    run_experiment(compose_config("train", *overrides))


def test_kills_at_any_time_change_nothing(
    tiny: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    """SIGKILL over and over, through all four stages, until a run comes to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["src.training.launch", HERE])
    overrides = [*tiny, "checkpoint_minutes=0", f"paths.run_dir={tmp_path}"]
    patience, kills = random.Random(0), 0
    while True:
        child = context.Process(target=_train, args=(overrides,))
        child.start()
        child.join(patience.uniform(0.5, 3) if kills < 12 else None)
        if child.exitcode is not None:
            break
        child.kill()
        child.join()
        kills += 1
    assert child.exitcode == 0
    assert kills > 1
    for stage in ("appearance", "motion", "joint", "joint_pooled"):
        ended, wanted = weights(tmp_path, stage), weights(finished_run, stage)
        for key, tensor in wanted.items():
            assert torch.equal(ended[key], tensor), (stage, key)
    left = [path.name for path in tmp_path.rglob("*") if path.suffix == ".part"]
    assert not [name for name in left if name.startswith("stage.json")]
    assert not list(tmp_path.rglob("previous.ckpt"))  # of finished stages


@pytest.fixture
def stopped(tiny: tuple[str, ...], finished_run: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A motion stage that has one pass of two, with the checkpoint before the last one."""
    folder = tmp_path / "run"
    overrides = [*tiny, *SHORT, "checkpoint_minutes=0"]
    how = ("what=test", "at=[0,0]", f"number={int(signal.SIGTERM)}")
    with pytest.raises(SystemExit):
        run(
            folder,
            *overrides,
            *(f"+callbacks.watch.{each}" for each in how),
            kind=f"{HERE}.Interrupt",
        )
    assert (folder / "motion" / "previous.ckpt").is_file()
    return folder, overrides


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str,
    stopped: tuple[Path, list[str]],
    undisturbed: tuple[Weights, dict[tuple[int, int], Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, overrides = stopped
    last = folder / "motion" / "last.ckpt"
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:-1000])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "foreign":
        torch.save({"state_dict": {}}, last)
    else:  # between two renamings
        last.unlink()
    with caplog.at_level(logging.INFO, "src.training"):
        ended = run(folder, *overrides)
    if damage != "missing":
        (line,) = [r.message for r in caplog.records if "the one before" in r.message]
        assert re.search(r"last\.ckpt .*going on from the one before, .*previous\.ckpt", line)
    for key, tensor in undisturbed[0].items():
        assert torch.equal(ended[key], tensor), key


def test_damage_to_both_is_an_error_with_its_mend(stopped: tuple[Path, list[str]]) -> None:
    folder, overrides = stopped
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / "motion" / name).write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read .*delete it to train"):
        run(folder, *overrides)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(
    stopped: tuple[Path, list[str]], undisturbed: tuple[Weights, dict[tuple[int, int], Any]]
) -> None:
    folder, overrides = stopped
    last = folder / "motion" / "last.ckpt"
    shutil.copy(folder / "motion" / "previous.ckpt", last)  # so that there is a step left
    before = last.read_bytes()
    (folder / "motion" / "last.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written \(No space left on device"):
        run(folder, *overrides)
    assert last.read_bytes() == before
    ended = run(folder, *overrides)
    assert all(torch.equal(ended[key], tensor) for key, tensor in undisturbed[0].items())


def test_another_number_of_clips_within_a_pass_is_refused(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    how = ("what=step", "at=[0,2]", f"number={int(signal.SIGTERM)}")
    strike = [f"+callbacks.watch.{each}" for each in how]
    with pytest.raises(SystemExit):
        run(tmp_path, *tiny, *SHORT, *strike, kind=f"{HERE}.Interrupt")
    change = ("stages.motion.data.batch_size=4", "resume=force")
    with pytest.raises(UserError, match=r"within a pass with data\.batch_size 2, not 4"):
        run(tmp_path, *tiny, *SHORT, *change)


def test_two_processes_stop_together_and_go_on(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """SIGTERM to one of them: one checkpoint of both, and the same weights at the end."""
    devices = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    batch = "stages.motion.data.batch_size=1"  # 8 steps in a pass, 2 to an update of 4 clips
    overrides = [*tiny, *SHORT, batch, *devices, "data.num_workers=1"]

    def train(folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "src.train", *overrides, *more, f"paths.run_dir={folder}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    strike = {"_target_": f"{HERE}.Interrupt", "what": "step", "at": [1, 4]}
    term = f"number={int(signal.SIGTERM)}"
    how = [f"+callbacks.watch.{key}={value}" for key, value in strike.items()]
    done = train(tmp_path / "stopped", *how, f"+callbacks.watch.{term}", "+callbacks.watch.rank=1")
    assert done.returncode != 0
    assert done.stderr.count("stopped by SIGTERM: the same command goes on from here") == 1
    saved = torch.load(tmp_path / "stopped" / "motion" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 7
    for folder in ("stopped", "undisturbed"):
        done = train(tmp_path / folder)
        assert done.returncode == 0, done.stderr[-2000:]
    ended, wanted = (weights(tmp_path / name, "motion") for name in ("stopped", "undisturbed"))
    for key, tensor in wanted.items():
        assert torch.equal(ended[key], tensor), key


def test_a_signal_that_comes_twice_is_one_and_a_later_one_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("src.training.stop.time.monotonic", lambda: now)
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGCHLD)}
    try:
        stop = EndAtSignals()
        stop.on_train_start(Mock(), Mock())
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == signal.SIGTERM
        now += 10
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended.value.code == 128 + signal.SIGTERM
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
