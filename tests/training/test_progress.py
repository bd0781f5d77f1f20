"""What a terminal shows of a stage, meanwhile and in the end."""

import io
import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from rich.console import Console

from src.experiment.build import build_datamodule
from src.experiment.config import stage_config
from src.training import pipeline, progress
from src.training.pipeline import run_experiment
from src.utils.errors import UserError
from tests.conftest import compose_config

LOG = "a line of log that is much longer than the terminal is wide " * 3
ACTIONS = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[\?25[lh]|([\r\n])|([^\x1b\r\n]+)")


class Terminal(io.StringIO):
    """A file that says it is a terminal, of 80 columns, and knows what is on its screen."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """What is left of all that was written: lines as they were printed, wrapped by none."""
        lines, row = [""], 0
        for number, command, control, text in ACTIONS.findall(self.getvalue()):
            if control == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif command == "A":
                row -= int(number or 1)
            elif command == "K":
                lines[row] = ""
            elif text:
                lines[row] += text
        return [line.rstrip() for line in lines if line.strip()]


class Talk(pl.Callback):
    """Says something in the middle of training, in three ways."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *step: object
    ) -> None:
        if step[2] == 0:
            logging.getLogger("talk").warning(LOG)
            print("printed [red]in between[/red]")
            sys.stderr.write("to the other stream\n")


Train = Callable[..., None]


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def train(
    terminal: Terminal,
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Train:
    """Trains a stage of 4 steps in an epoch, on a terminal for both streams and the log."""
    monkeypatch.setattr(pipeline, "end_run", lambda *_: None)
    caplog.set_level(logging.INFO, "src")
    caplog.set_level(logging.WARNING, "pytorch_lightning")
    monkeypatch.setattr(progress, "BETWEEN", 0.0)  # every step is drawn
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*overrides: str, stdout: io.StringIO = terminal) -> None:
        cfg = compose_config(
            "train",
            *tiny,
            "experiment=motion_two_movers",
            "stages.motion.effective_batch_size=4",
            "stages.motion.data.batch_size=4",
            f"+callbacks.talk._target_={__name__}.Talk",
            f"paths.run_dir={tmp_path}",
            *overrides,
        )
        build_datamodule(stage_config(cfg, "motion")).prepare_data()  # has a bar of its own
        handler = logging.StreamHandler(terminal)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            patch.setattr(sys, "stderr", terminal)
            patch.setattr(logging.getLogger(), "handlers", [handler])
            try:
                run_experiment(cfg)
            finally:
                assert (sys.stdout, sys.stderr, handler.stream) == (stdout, terminal, terminal)

    return run


@pytest.mark.slow
def test_a_terminal_shows_all_and_keeps_a_line(train: Train, terminal: Terminal) -> None:
    train("trainer.max_epochs=2")
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue())
    for expected in (
        r"motion: epoch 1/2 [━╸ ]+ batch 1 of 4, \d:\d\d:\d\d left",
        r"motion: epoch 2/2 [━╸ ]+ batch 4 of 4, 0:00:00 left",
        r"validation +[━╸ ]+ batch 1 of 2",
        r"\d clips/s, \d+ % waiting for data, loss \d\.\d{3}\r",
        r"loss \d\.\d{3}, top-1 train \d+\.\d %, val \d+\.\d %",
        r"motion: test ━+ batch 2 of 2",
    ):
        assert re.search(expected, shown), expected
    longest = max(len(line) for line in shown.splitlines() if "━" in line)
    assert longest <= 80 + len("validation          ")  # several drawings are on such a line
    said = [LOG.strip(), "printed [red]in between[/red]", "to the other stream"]
    *lines, last = terminal.screen()
    assert lines.pop(0).startswith("stage motion: 4 clips an update = 4 clips x 1 device")
    assert [line for line in lines if "motion: epoch" not in line] == said * 2
    assert [line[:17] for line in lines if line not in said] == [
        "motion: epoch 1/2",
        "motion: epoch 2/2",
    ]
    assert re.fullmatch(
        r"motion: \d:\d\d:\d\d, \d+\.\d clips/s, \d+ % of training waiting for data, "
        r"top-1 of test videos \d+\.\d %",
        last,
    )


def test_a_failure_leaves_the_terminal_as_it_was(
    train: Train, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("no more")

    monkeypatch.setattr("src.models.modules.VideoClassifier.validation_step", fail)
    with pytest.raises(UserError, match="no more"):
        train()
    assert not [line for line in terminal.screen() if "━" in line]
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


@pytest.mark.slow
@pytest.mark.parametrize("file", [False, True], ids=["switched off", "a log file"])
def test_log_lines_alone(
    file: bool, train: Train, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file:
        monkeypatch.setattr(Terminal, "isatty", lambda _: False)
        monkeypatch.setenv("FORCE_COLOR", "1")  # as in many a CI
    train(*([] if file else ["trainer.enable_progress_bar=false"]))
    assert "━" not in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
    assert "motion: epoch 1/1" in terminal.getvalue()


@pytest.mark.slow
def test_what_goes_into_a_file_stays_in_it(train: Train, terminal: Terminal) -> None:
    """python -m src.train > file: the bar is on the terminal, prints are in the file."""
    file = io.StringIO()
    train(stdout=file)
    assert file.getvalue() == "printed [red]in between[/red]\n"
    assert "motion: test" in terminal.getvalue()


def test_time_left_is_that_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun in the middle: epoch 3/4, after 2 of 10 batches, 5 seconds each."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, no_color=True)
    bar = progress.StageProgress("joint", console)
    trainer = SimpleNamespace(num_training_batches=10, max_epochs=4, current_epoch=2)
    bar.on_train_start(trainer, pl.LightningModule())  # type: ignore[arg-type]
    for batch in (2, 3):
        now += 5
        bar.on_train_batch_end(trainer, pl.LightningModule(), None, None, batch)  # type: ignore[arg-type]
    bar.on_train_end(trainer, pl.LightningModule())  # type: ignore[arg-type]
    assert "joint: epoch 3/4" in out.getvalue()
    assert "batch 4 of 10, 0:01:20 left" in out.getvalue()  # 16 of 40 batches
