"""What SIGTERM, SIGUSR1, SIGHUP and Ctrl-C do to a process that trains: it ends, in good order.

In training it ends as soon as it has saved where it is (`StageCheckpoint`), anywhere else at once,
and anywhere at once at a second signal, later. Checkpoints and records are complete at any time.
"""

import contextlib
import os
import signal
import stat
import threading
import time
from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer

from src.utils.processes import heeded_signals
from src.utils.ranks import own_rank

TOGETHER = 5.0  # seconds in which a signal may come twice: to a job of SLURM, and to its steps


def end_at_signals() -> None:
    """From now on they end this process with status 128 + number, through `finally` and `with`."""
    _handle_with(_end)


def ignore_signals() -> None:
    """From now on they do nothing: this process is ending."""
    _handle_with(signal.SIG_IGN)


class EndAtSignals(Callback):
    """Takes signals while a stage runs, in place of Lightning's own handler.

    Lightning's tells the other processes by a broadcast from within the handler: where one of them
    is in another exchange at that moment, all of them wait for each other.
    """

    def __init__(self) -> None:
        self.asked: int | None = None  # the signal that asked to end after the step
        self._asked_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What has been trained is worth saving."""
        _handle_with(self._ask)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All of it is saved."""
        if self.asked is not None:
            self.end(self.asked)
        end_at_signals()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the handler, which Lightning has just set."""
        end_at_signals()

    def end(self, number: int) -> None:
        """End this process, whose state is saved."""
        _end(number, None, "here")

    def _ask(self, number: int, frame: FrameType | None) -> None:
        _let_go_of_terminal(number)
        if self.asked is None:
            self.asked, self._asked_at = number, time.monotonic()
            _tell(f"{signal.Signals(number).name}: saving, then ending; a later one ends at once")
        elif number == signal.SIGINT or time.monotonic() - self._asked_at > TOGETHER:
            _end(number, frame)  # nobody presses Ctrl-C twice by chance


def _handle_with(handler: "signal._HANDLER") -> None:
    if threading.current_thread() is threading.main_thread():  # Python takes signals there alone
        for number in heeded_signals():
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None, where: str = "the last checkpoint") -> None:
    ignore_signals()  # once is enough
    _let_go_of_terminal(number)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # torch would report workers that end too
    name = signal.Signals(number).name
    _tell(f"stopped by {name}: rerun the same command to resume from {where}")
    raise SystemExit(128 + number)


def _let_go_of_terminal(number: int) -> None:
    """Write to nowhere in the place of a terminal that has been closed: writing to it fails."""
    if number != getattr(signal, "SIGHUP", None):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode):
                os.dup2(nowhere, output)


def _tell(line: str) -> None:
    if own_rank() == 0:
        os.write(2, f"{line}\n".encode())  # not print, which may be what was interrupted
