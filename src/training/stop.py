"""What SIGTERM does to a process that trains: it ends, in good order, whatever it is doing.

Checkpoints and records are whole at any time (`checkpoint_io`), so that there is nothing to save:
the same command goes on from the last complete pass.
"""

import os
import signal
import threading
import time
from types import FrameType

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

NOTICE = 1.0  # seconds in which a signal reaches all processes of a job


def end_at_sigterm() -> None:
    """From now on SIGTERM ends this process with status 143, through `finally` and `with`."""
    if threading.current_thread() is threading.main_thread():  # Python takes signals there alone
        signal.signal(signal.SIGTERM, _end)


def await_sigterm() -> None:
    """Give SIGTERM the time to arrive, after an error that may come from the end of others.

    When all processes are told to end, one may first lose its connection to another, or a worker
    that loads its data: that is no failure of the job.
    """
    time.sleep(NOTICE)


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough
    signal.signal(signal.SIGCHLD, lambda *_: None)  # torch would report workers that end too
    if getattr(rank_zero_only, "rank", 0) == 0:
        # not print, which may be what was interrupted
        os.write(2, b"stopped by SIGTERM: the same command goes on from the last complete pass\n")
    raise SystemExit(128 + number)


class EndAtSigterm(pl.Callback):
    """Puts `end_at_sigterm` in the place of Lightning's own handler while a stage runs.

    Lightning's tells the other processes by a broadcast from within the handler: where one of them
    is in another exchange at that moment, all of them wait for each other.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the handler, which Lightning has just set."""
        end_at_sigterm()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the handler, which Lightning has just set."""
        end_at_sigterm()
