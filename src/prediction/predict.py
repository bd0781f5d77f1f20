"""Classify videos and streams with a checkpoint: each as one, or window by window."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.media.frames_in_order import TimedFrame, duration_of, is_stream, read_in_order
from src.media.video_file import VideoFile
from src.plotting.charts import draw_timeline
from src.prediction.inputs import output_names
from src.prediction.output import (
    AnnotatedVideo,
    Labels,
    PredictionFile,
    RankedClass,
    show_predictions,
)
from src.prediction.predictor import Predictor
from src.prediction.windows import HeldFrame, Memory, Timeline, sliding_windows
from src.utils.console import progress
from src.utils.errors import UserError, visible


@dataclass(frozen=True)
class Options:
    """What to do with each video.

    Raises:
        UserError: a step or a plot without windows.
    """

    output: Path  # where rows are written, CSV or .json
    top_k: int  # classes per video or window
    window: float | None  # seconds; None takes each video as one
    step: float | None  # seconds from window to window; None for half a window
    annotate: Path | None  # folder for annotated copies
    plot: Path | None  # folder for plots of the timelines

    def __post_init__(self) -> None:
        for name in ("step", "plot"):
            if self.window is None and getattr(self, name) is not None:
                raise UserError(f"{name} is of windows: add window=<seconds>")

    def check(self, sources: Sequence[str]) -> None:
        """Refuse streams without windows, and annotated copies that would replace an input."""
        for source in sources:
            if self.window is None and is_stream(source):
                raise UserError(f"input {source} has no known end: add window=<seconds>")
        if self.annotate:
            inputs = {Path(source).resolve() for source in sources}
            for name in output_names(sources).values():
                if self.annotated(name).resolve() in inputs:
                    raise UserError(
                        f"annotate={self.annotate} would replace the input {self.annotated(name)}: "
                        "give another folder"
                    )

    def annotated(self, name: str) -> Path:
        """Where the annotated copy of the video `name` is written."""
        return Path(self.annotate or "", f"{name}_annotated.mp4")


@dataclass
class Outcome:
    """What `predict` did."""

    failed: dict[str, str]  # the reason for each source that could not be read to its end
    any_written: bool = False  # whether there are any predictions
    stopped: str | None = None  # the source in which Ctrl-C came


def predict(predictor: Predictor, sources: Sequence[str], options: Options) -> Outcome:
    """Classify each of the sources and write what is found, at once.

    Ctrl-C ends it, and leaves what was found so far.
    """
    names, outcome = output_names(sources), Outcome({})
    predictions: list[RankedClass] = []
    with PredictionFile(options.output) as rows:
        with progress() as bar:
            task = bar.add_task("", total=len(sources))
            for number, source in enumerate(sources):

                def show(seconds: float, part: float, number: int = number) -> None:
                    place = f"{number + 1}/{len(sources)} {visible(sources[number])}"
                    text = f"{place} {seconds:.1f} s"
                    bar.update(task, completed=number + part, description=text)

                job = _Job(predictor, source, names[source], options, rows, show)
                try:
                    if options.window is None:
                        predictions += job.video()
                    else:
                        job.windows(options.window, options.step or options.window / 2)
                except UserError as error:
                    named = Path(source).name in str(error)
                    outcome.failed[source] = str(error) if named else f"{source}: {error}"
                except KeyboardInterrupt:
                    outcome.stopped = source
                    break
        if predictions:
            show_predictions(predictions)
        outcome.any_written = rows.written
    return outcome


@dataclass(frozen=True)
class _Job:
    """One source."""

    predictor: Predictor
    source: str
    name: str
    options: Options
    rows: PredictionFile
    show: Callable[[float, float], None]  # at how many seconds it is, and at which share of all

    def video(self) -> list[RankedClass]:
        """Classify it as one."""
        self.show(0.0, 0.0)
        memory: Memory = {}
        kept = memory if self.options.annotate else None
        probabilities = self.predictor.video(VideoFile(self.source), self.source, kept)
        labels = self.predictor.labels(probabilities, self.options.top_k)
        ranked = self._predictions(labels)
        self.rows.add(ranked)
        with self._annotated() as annotated:
            if annotated:
                for frame in self._watched():
                    annotated.write(frame.image, frame.index, frame.time, labels, memory)
        return ranked

    def windows(self, length: float, step: float) -> None:
        """Classify windows of it as they come."""
        memory: Memory = {}
        timeline, shown = Timeline(), ""
        with self._annotated() as annotated, contextlib.ExitStack() as at_end:
            at_end.callback(self._plot, timeline)

            def held() -> Iterator[HeldFrame]:
                for frame in self._watched():
                    if annotated:
                        annotated.wait(frame)
                    yield self.predictor.hold(frame)

            for window in sliding_windows(held(), length, step):
                probabilities = self.predictor.window(window, self.source, memory)
                labels = self.predictor.labels(probabilities, self.options.top_k)
                self.rows.add(self._predictions(labels, window.start, window.end))
                middle = (window.start + window.end) / 2
                if self.options.plot:
                    timeline.add(middle, probabilities.numpy().astype(np.float32))
                if annotated:
                    annotated.label(labels, memory, middle + step / 2)
                best, probability = labels[0]
                if best != shown:
                    shown = best
                    text = f"{self.source} from {window.start:.2f} s: {best} ({probability:.2f})"
                    print(visible(text), flush=True)

    def _predictions(
        self, labels: Labels, start: float | None = None, end: float | None = None
    ) -> list[RankedClass]:
        return [
            RankedClass(self.source, start, end, rank, label, probability)
            for rank, (label, probability) in enumerate(labels, start=1)
        ]

    def _watched(self) -> Iterator[TimedFrame]:
        duration = None if is_stream(self.source) else duration_of(self.source)
        for frame in read_in_order(self.source):
            self.show(frame.time, min(frame.time / duration, 1.0) if duration else 0.0)
            yield frame

    def _annotated(self) -> AbstractContextManager[AnnotatedVideo | None]:
        if self.options.annotate is None:
            return contextlib.nullcontext()
        return contextlib.closing(AnnotatedVideo(self.options.annotated(self.name)))

    def _plot(self, timeline: Timeline) -> None:
        times, values = timeline.points()
        if self.options.plot is not None and times:
            path = self.options.plot / f"{self.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_timeline(times, values, self.predictor.class_names).savefig(path)
