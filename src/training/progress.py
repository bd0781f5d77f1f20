"""One view of a stage on a terminal: how far it is, how fast, and how well it does."""

import logging
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from src.data.videos import PARTS
from src.models.modules import VideoClassifier
from src.training.throughput import Throughput

BETWEEN = 0.25  # seconds from one drawing to the next
_ACCURACIES = {"train/clip/top1": "top-1 train", "val/clip/top1": "val"}


def progress_bars(
    trainer: DictConfig, title: str, throughput: Throughput | None = None
) -> list[Callback]:
    """The `StageProgress` of a trainer's config; none where there is no terminal, or it says so."""
    console = Console(stderr=True, soft_wrap=True)
    # A variable like FORCE_COLOR makes the console take a file for a terminal.
    on_terminal = console.is_interactive and sys.stderr.isatty()
    shown = on_terminal and trainer.get("enable_progress_bar", True)
    return [StageProgress(title, console, throughput)] if shown else []


class StageProgress(ProgressBar):
    """Shows training, validation and test of a stage, and leaves one line of it.

        joint: epoch 3/80 ━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━ batch 12 of 57, 1:12:34 left
        validation          ━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━ batch 20 of 30
        153.4 clips/s, 3 % waiting for data, loss 1.234, top-1 train 56.2 %, val 45.1 %

    The first bar is the full training's, and so is the time that is left: of steps and validation
    as in this call so far. Accuracies are those of clips, in the last epoch. What is logged or
    printed meanwhile goes above. It is drawn between steps, not by a thread of its own: processes
    may be forked at any time.

    Args:
        title: the stage's name.
        console: where to draw; its `soft_wrap` keeps long lines of others unbroken.
        throughput: knows how fast training is; None if nothing is trained.
    """

    def __init__(self, title: str, console: Console, throughput: Throughput | None = None) -> None:
        super().__init__()
        self.title, self.console, self.throughput = title, console, throughput
        self._enabled = True
        self._live: Live | None = None
        self._logs: dict[logging.StreamHandler[Any], Any] = {}  # where they wrote before
        self._drawn, self._start = 0.0, time.perf_counter()
        self._trained = 0  # batches in this call
        self._bars: dict[str, tuple[str, float, float, str]] = {}  # title, done, of, words
        self._numbers: dict[str, str] = {}

    def disable(self) -> None:
        """Show nothing, as on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show it again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, in the middle of a stage perhaps."""
        self._start, self._trained = time.perf_counter(), 0
        self._open()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """Show the step, if the last drawing is a while ago."""
        self._trained += 1
        batch = step[2] + 1
        if not self._due(last=batch == trainer.num_training_batches):
            return
        batches, epochs = int(trainer.num_training_batches), trainer.max_epochs or 1
        done, of = trainer.current_epoch * batches + batch, epochs * batches
        seconds = (time.perf_counter() - self._start) / self._trained * (of - done)
        self._bars["train"] = (
            f"{self.title}: epoch {trainer.current_epoch + 1}/{epochs}",
            done,
            of,
            f"batch {batch} of {batches}, {timedelta(seconds=round(seconds))} left",
        )
        if self.throughput is not None:
            recent = self.throughput.recent
            self._numbers["speed"] = f"{recent.clips_per_second:.1f} clips/s"
            self._numbers["data"] = f"{100 * recent.data_share:.0f} % waiting for data"
        if isinstance(pl_module, VideoClassifier):
            loss = sum(float(loss) for loss in pl_module.last_losses.values())
            self._numbers["loss"] = f"loss {loss:.3f}"
        self._draw()

    def on_validation_batch_end(self, trainer: Trainer, *step: Any) -> None:
        """Show how far validation is."""
        self._evaluated("validation", step[3] + 1, trainer.num_val_batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training continues."""
        self._bars.pop("validation", None)
        self._draw()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the accuracies of the epoch from now on."""
        metrics: Mapping[str, Any] = trainer.callback_metrics
        for key, name in _ACCURACIES.items():
            if key in metrics:
                self._numbers[key] = f"{name} {100 * float(metrics[key]):.1f} %"
        self._draw()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the test."""
        self._bars, self._numbers = {}, {}
        self._open()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any) -> None:
        """Show how far the test is."""
        title = f"{self.title}: test" if self.throughput else self.title
        self._evaluated(title, step[2] + 1, trainer.num_test_batches)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the line of the stage."""
        self._close()
        if not self._enabled or self.throughput is None:
            return
        parts = [f"{self.title}: {timedelta(seconds=round(time.perf_counter() - self._start))}"]
        stage = self.throughput.stage
        if stage.steps:
            parts.append(f"{stage.clips_per_second:.1f} clips/s")
            parts.append(f"{100 * stage.data_share:.0f} % of training waiting for data")
        top1 = trainer.callback_metrics.get("test/video/top1")
        if top1 is not None:
            part = PARTS[trainer.datamodule.test_part]  # type: ignore[attr-defined]
            parts.append(f"top-1 of {part} videos {100 * float(top1):.1f} %")
        self.console.print(Text(", ".join(parts), style="bold"))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave nothing but what was logged; the test follows."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Leave the terminal as it was."""
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above."""
        self.console.print(*args)

    def _evaluated(self, title: str, batch: int, batches: list[int | float]) -> None:
        of = sum(batches)
        if self._due(last=batch == of):
            self._bars["validation"] = (title, batch, of, f"batch {batch} of {of:.0f}")
            self._draw()

    def _due(self, last: bool) -> bool:
        return self._live is not None and (last or time.perf_counter() - self._drawn >= BETWEEN)

    def _draw(self) -> None:
        if self._live is not None:
            self._live.update(self._view(), refresh=True)
            self._drawn = time.perf_counter()

    def _view(self) -> RenderableType:
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(no_wrap=True)
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True)
        for title, done, of, words in self._bars.values():
            bars.add_row(title, Bar(total=of, completed=done), words)
        numbers = Text(", ".join(self._numbers.values()), no_wrap=True, overflow="ellipsis")
        return Group(bars, numbers) if self._numbers else bars

    def _open(self) -> None:
        if not self._enabled or self._live is not None:
            return
        before = {id(sys.stdout): "stdout", id(sys.stderr): "stderr"}
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # what goes into a file stays in it
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in before:
                self._logs[handler] = handler.stream
                handler.setStream(getattr(sys, before[id(handler.stream)]))

    def _close(self) -> None:
        if self._live is None:
            return
        for handler, stream in self._logs.items():
            handler.setStream(stream)
        self._logs.clear()
        self._live.stop()
        self._live = None
