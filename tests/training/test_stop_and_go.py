"""A run that is stopped anywhere, in any way, ends with the weights of one that was not."""

import csv
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch

from src.experiment.config import stage_config
from src.inspection.learning_rates import stage_rates
from src.training.pipeline import run_experiment
from src.training.stop import EndAtSignals
from src.utils.errors import UserError
from src.utils.files import exclusive_lock
from src.utils.processes import heeded_signals
from tests.conftest import compose_config
from tests.processes import run_as_ranks

pytestmark = pytest.mark.slow

# 8 steps of 2 clips in an epoch, 2 steps to an update, dropout from the real config
SHORT = (
    "experiment=motion_two_movers",
    "stages.motion.effective_batch_size=4",
    "stages.motion.data.batch_size=2",
    "stages.motion.max_epochs=2",
    "trainer.max_epochs=2",
)
HERE = "tests.training.test_stop_and_go"
STRIKE = "STRIKE"  # the variable: what, epoch, batch, rank and signal
Weights = dict[str, torch.Tensor]


class Clips(pl.Callback):
    """Keeps what every step has seen; the same object for all runs of a test.

    Where the environment says so, it sends a signal to its own process and its workers in the
    middle of something. Not the config: a run with another config is another run.
    """

    seen: ClassVar[dict[tuple[int, int], tuple[Any, ...]]] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        content = (tuple(batch["video"]), int(batch["flow"].sum()))
        Clips.seen[trainer.current_epoch, batch_idx] = content
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
        here = f"{what} {epoch} {batch_idx} {trainer.global_rank}"
        if os.environ.get(STRIKE, "").rpartition(" ")[0] == here:
            workers = [worker.pid for worker in multiprocessing.active_children()]
            for process in (*workers, os.getpid()):  # as schedulers and terminals do
                os.kill(process or 0, int(os.environ[STRIKE].rpartition(" ")[2]))


def run(folder: Path, *overrides: str, kind: str = f"{HERE}.Clips") -> Weights:
    watch = f"+callbacks.watch._target_={kind}"
    run_experiment(compose_config("train", *overrides, watch, f"paths.run_dir={folder}"))
    return weights(folder, "motion")


def weights(folder: Path, stage: str) -> Weights:
    state: Weights = torch.load(folder / stage / "last.ckpt", weights_only=True)["state_dict"]
    return state


def averages(folder: Path) -> dict[tuple[str, str], float]:
    """What has been logged of full epochs, whatever the number of starts."""
    found = {}
    for file in sorted(folder.glob("motion/csv/version_*/metrics.csv")):
        with file.open() as lines:
            for row in csv.DictReader(lines):
                for key in ("train/loss_epoch", "train/clip/top1", "val/clip/top1"):
                    if row.get(key):
                        found[key, row["epoch"]] = float(row[key])
    return found


def end(folder: Path, overrides: Sequence[str], what: str, at: Sequence[int], number: int) -> None:
    """Run until a signal ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STRIKE, f"{what} {at[0]} {at[1]} 0 {int(number)}")
        with pytest.raises(SystemExit) as ended:
            run(folder, *overrides)
    assert ended.value.code == 128 + number


@dataclass(frozen=True)
class Undisturbed:
    weights: Weights
    clips: dict[tuple[int, int], Any]
    averages: dict[tuple[str, str], float]

    @classmethod
    def of(cls, folder: Path, overrides: Sequence[str]) -> "Undisturbed":
        Clips.seen = {}
        return cls(run(folder, *overrides), dict(Clips.seen), averages(folder))

    def assert_same(self, ended: Weights) -> None:
        for key, tensor in self.weights.items():
            assert torch.equal(ended[key], tensor), key


@pytest.fixture(scope="module")
def undisturbed(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    torch.set_num_threads(1)
    return Undisturbed.of(tmp_path_factory.mktemp("undisturbed"), [*tiny, *SHORT])


@pytest.mark.parametrize(
    ("number", "what", "at", "workers"),
    [
        ("SIGTERM", "step", (0, 2), 2),  # the first of two steps to an update
        ("SIGUSR1", "step", (1, 3), 0),
        ("SIGHUP", "step", (0, 7), 0),  # the last of an epoch
        ("SIGTERM", "validation", (0, 0), 0),
        ("SIGINT", "step", (1, 2), 2),
        ("SIGUSR1", "step", (1, 7), 0),  # the last of all
        ("SIGTERM", "test", (0, 1), 0),
    ],
)
def test_a_stop_changes_nothing(
    number: str,
    what: str,
    at: tuple[int, int],
    workers: int,
    tiny: tuple[str, ...],
    undisturbed: Undisturbed,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if signal.Signals[number] not in heeded_signals():
        pytest.skip(f"these tests were started to ignore {number}")
    Clips.seen = {}
    overrides = [*tiny, *SHORT, f"data.loader.num_workers={workers}"]
    end(tmp_path, overrides, what, at, signal.Signals[number])
    assert capfd.readouterr().err.count(f"stopped by {number}: rerun the same command") == 1
    before = dict(Clips.seen)
    assert not (tmp_path / "motion" / "stage.json").exists()
    ended = run(tmp_path, *overrides)
    assert Clips.seen == undisturbed.clips
    assert averages(tmp_path) == pytest.approx(undisturbed.averages)
    if what == "step":  # nothing is done twice: the second run saw the rest alone
        again = torch.load(tmp_path / "motion" / "last.ckpt", weights_only=True)["global_step"]
        assert again == 8
        assert max(before) in {at, (at[0], at[1] + 1)}
    undisturbed.assert_same(ended)


@pytest.mark.parametrize(
    "choices",
    [
        ("callbacks=ema", "mixing=cutmix", "data/augment=color_jitter", "data/sampler=segments"),
        (
            *("optimizer=adamw", "stages.motion.optimizer.lr=1e-3"),
            "stages.motion.lr_scheduler.warmup=0.3",
            *("+trainer.gradient_clip_val=0.1", "trainer.precision=bf16-mixed"),
            "stages.motion.effective_batch_size=6",  # the last update of an epoch has fewer steps
        ),
    ],
    ids=["ema", "adamw"],
)
def test_a_stop_changes_nothing_whatever_is_chosen(
    choices: Sequence[str], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = [*tiny, *SHORT, *choices]
    wanted = Undisturbed.of(tmp_path / "undisturbed", overrides)
    Clips.seen = {}
    end(tmp_path / "a stop", overrides, "step", (1, 3), signal.SIGTERM)
    wanted.assert_same(run(tmp_path / "a stop", *overrides))
    assert Clips.seen == wanted.clips
    assert averages(tmp_path / "a stop") == pytest.approx(wanted.averages)


@pytest.mark.parametrize(("what", "at"), [("step", (0, 3)), ("validation", (0, 0))])
def test_validation_within_a_pass_is_not_left_out(
    what: str, at: tuple[int, int], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = [*tiny, *SHORT, "+trainer.val_check_interval=4"]

    def validated(name: str) -> dict[str, float]:
        files = sorted((tmp_path / name).glob("motion/csv/version_*/metrics.csv"))
        rows = [row for file in files for row in csv.DictReader(file.open())]
        return {row["step"]: float(row["val/loss"]) for row in rows if row.get("val/loss")}

    wanted = Undisturbed.of(tmp_path / "undisturbed", overrides)
    end(tmp_path / "stopped", overrides, what, at, signal.SIGTERM)
    wanted.assert_same(run(tmp_path / "stopped", *overrides))
    assert len(validated("undisturbed")) == 4
    assert validated("stopped") == pytest.approx(validated("undisturbed"))


class KillWorker(pl.Callback):
    """Kills a worker in the middle of a step, as a system without memory does."""

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        newest = max(child.pid or 0 for child in multiprocessing.active_children())
        os.kill(newest, signal.SIGKILL)  # others may be left of other tests
        time.sleep(5)  # until torch is told


def test_a_worker_that_is_killed_is_one_line(
    tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    # Stops replace torch's handler, which it sets but once.
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
    try:
        with pytest.raises(
            UserError, match=r"worker process died.*under way.*data\.loader\.num_workers=0"
        ):
            run(tmp_path, *tiny, *SHORT, "data.loader.num_workers=2", kind=f"{HERE}.KillWorker")
    finally:
        signal.signal(signal.SIGCHLD, before)


def _hold(folder: Path, held: Any) -> None:
    with exclusive_lock(folder / ".lock"):
        held.set()
        time.sleep(60)


def test_a_stage_belongs_to_one_process(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """A second one is told who has it; how the first ends does not matter."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "motion", held))
    other.start()
    assert held.wait(60)
    with pytest.raises(UserError, match=rf"motion is in use by process {other.pid} on \S+: wait"):
        run(tmp_path, *tiny, *SHORT)
    assert os.listdir(tmp_path / "motion") == [".lock"]
    other.kill()
    other.join()
    with exclusive_lock(tmp_path / "motion" / ".lock"):
        pass


def test_a_shared_stage_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.utils.files.RETRY_AFTER", 0.01)
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held))
    other.start()
    assert held.wait(60)
    threading.Timer(0.2, other.kill).start()
    with exclusive_lock(tmp_path / ".lock", wait=True):
        assert not other.is_alive()


def _train(overrides: Sequence[str]) -> None:
    torch.set_num_threads(1)
    run_experiment(compose_config("train", *overrides))


def test_kills_at_any_time_change_nothing(
    tiny: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    """SIGKILL over and over, through all four stages, until a run comes to its end."""
    context = multiprocessing.get_context("forkserver")
    overrides = [*tiny, "checkpoint_minutes=0", f"paths.run_dir={tmp_path}"]
    patience, kills = random.Random(0), 0
    while True:
        child = context.Process(target=_train, args=(overrides,))
        child.start()
        child.join(patience.uniform(0.5, 3) if kills < 8 else None)
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
    """A motion stage that has one epoch of two, with the checkpoint before the last one."""
    folder = tmp_path / "run"
    overrides = [*tiny, *SHORT, "checkpoint_minutes=0"]
    end(folder, overrides, "test", (0, 0), signal.SIGTERM)
    assert (folder / "motion" / "previous.ckpt").is_file()
    return folder, overrides


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str,
    stopped: tuple[Path, list[str]],
    undisturbed: Undisturbed,
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
        assert re.search(r"last\.ckpt .*resuming from the one before, .*previous\.ckpt", line)
    undisturbed.assert_same(ended)


def test_damage_to_both_is_an_error_with_its_mend(stopped: tuple[Path, list[str]]) -> None:
    folder, overrides = stopped
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / "motion" / name).write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read .*delete it to train"):
        run(folder, *overrides)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(
    stopped: tuple[Path, list[str]], undisturbed: Undisturbed
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
    undisturbed.assert_same(ended)


def test_another_number_of_clips_within_a_pass_is_refused(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    end(tmp_path, [*tiny, *SHORT], "step", (0, 2), signal.SIGTERM)
    change = ("stages.motion.data.batch_size=4", "resume=force")
    with pytest.raises(UserError, match=r"within an epoch with data\.batch_size 2, not 4"):
        run(tmp_path, *tiny, *SHORT, *change)


def test_two_processes_stop_together_and_go_on(tiny: tuple[str, ...], tmp_path: Path) -> None:
    """SIGTERM to one of them: one checkpoint of both, and the same weights at the end."""
    batch = "stages.motion.data.batch_size=1"  # 8 steps in an epoch, 2 to an update of 4 clips
    overrides = [*tiny, *SHORT, batch, f"+callbacks.watch._target_={HERE}.Clips"]

    def train(folder: str, **environment: str) -> tuple[list[int | None], str]:
        run_dir = f"paths.run_dir={tmp_path / folder}"
        return run_as_ranks([*overrides, run_dir], tmp_path, environment)

    status, told = train("stopped", **{STRIKE: f"step 1 4 1 {int(signal.SIGTERM)}"})
    assert status == [128 + signal.SIGTERM] * 2
    assert told.count("stopped by SIGTERM: rerun the same command to resume from here") == 1
    saved = torch.load(tmp_path / "stopped" / "motion" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 7
    for folder in ("stopped", "undisturbed"):
        status, told = train(folder)
        assert status == [0, 0], told
    ended, wanted = (weights(tmp_path / name, "motion") for name in ("stopped", "undisturbed"))
    for key, tensor in wanted.items():
        assert torch.equal(ended[key], tensor), key
    told_of = [averages(tmp_path / name) for name in ("stopped", "undisturbed")]
    assert any(key.startswith("val/") for key, *_ in told_of[0])
    assert told_of[0] == pytest.approx(told_of[1])  # the second rank's statistics are not saved


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("optimizer=adamw", "stages.motion.optimizer.lr=1e-3"), r"SGD, not of .*AdamW"),
        (("model.backbone.width=8",), r"size mismatch for net\.conv1\.weight"),
    ],
)
def test_what_even_force_cannot_go_on_from_is_one_line(
    change: tuple[str, ...], reason: str, stopped: tuple[Path, list[str]]
) -> None:
    folder, overrides = stopped
    with pytest.raises(UserError, match=rf"not even resume=force .*{reason}.*init_from="):
        run(folder, *overrides, *change, "resume=force")


def test_force_follows_the_new_config(stopped: tuple[Path, list[str]]) -> None:
    """A third epoch, with updates of twice as many clips: two in the place of four."""
    folder, overrides = stopped
    change = ["stages.motion.effective_batch_size=8", "optimizer.momentum=0.5", "resume=force"]
    longer = ["stages.motion.max_epochs=3", "trainer.max_epochs=3"]
    cfg = compose_config("train", *overrides, *change, *longer)
    rates = stage_rates(stage_config(cfg, "motion"), updates=2).rates
    run(folder, *overrides, *change, *longer)
    with (folder / "motion" / "csv" / "version_1" / "metrics.csv").open() as lines:
        logged = [row["lr-SGD/weight"] for row in csv.DictReader(lines)]  # in each of 4 steps
    (wanted,) = [rates[kinds] for kinds in rates if "weight" in kinds.split(", ")]
    assert [float(rate) for rate in dict.fromkeys(logged) if rate] == pytest.approx(wanted[4:])
    content = torch.load(folder / "motion" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 10
    groups = content["optimizer_states"][0]["param_groups"]
    assert {group["momentum"] for group in groups} == {0.5}


def test_a_signal_that_comes_twice_is_one_and_a_later_one_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("src.training.stop.time.monotonic", lambda: now)
    handlers = {number: signal.getsignal(number) for number in (*heeded_signals(), signal.SIGCHLD)}
    try:
        stop = EndAtSignals()
        stop.on_train_start(Mock(), Mock())
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == signal.SIGTERM
        with pytest.raises(SystemExit):  # Ctrl-C is meant
            stop._ask(signal.SIGINT, None)
        stop.on_train_start(Mock(), Mock())
        now += 10
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
        assert ended.value.code == 128 + signal.SIGTERM
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
