"""What a sweep ends in: a table of its jobs, and of those that differ in seed or split alone.

Everything is read from the records of the jobs and of their stages, whatever launched them.
"""

import contextlib
import csv
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.experiment.sweeps import given, says_nothing, settle_folders, short_keys
from src.utils.mistakes import one_line_errors

if TYPE_CHECKING:
    from src.training.run_record import RunRecord

FILE_NAME = "sweep.csv"
ENDED_WELL = ("done", "resumed", "pruned")
_CLOCKS = 60.0  # seconds by which the clocks of machines may differ
_started: list[tuple[DictConfig, float]] = []  # the sweep of this process, and when it began


class SweepTable(Callback):
    """Hydra calls it before the first job of a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Settle the names of the folders, which are those of all jobs."""
        with one_line_errors():
            settle_folders(config)
        _started.append((config, time.time()))


@contextlib.contextmanager
def table_at_end() -> Iterator[None]:
    """Print the table of the sweep that the block was, however it ends."""
    try:
        yield
    finally:
        if _started:
            config, began = _started.pop()
            if config.show is None:
                report_sweep(config, began)


@dataclass(frozen=True)
class Job:
    """A job of a sweep, and what its stages have shown."""

    folder: Path
    record: "RunRecord"
    values: dict[str, str]  # of the keys in its overrides
    stage: str = ""  # the last one, if it is finished
    top1: float | None = None  # percent, of its test
    mean_class: float | None = None
    late_fusion: float | None = None  # top-1 of the two streams' fusion
    protocol: str = ""  # of the test, and of which part of the data
    epochs: int | None = None

    @classmethod
    def read(cls, folder: Path) -> "Job | None":
        """That in a folder; None if there is none."""
        from src.training.late_fusion import late_fusion_dir
        from src.training.run_record import RunRecord

        record = RunRecord.load(folder)
        if record is None:
            return None
        values = dict(text.partition("=")[::2] for text in record.overrides)
        dirs = record.stage_dirs(folder)
        fusion = late_fusion_dir(dirs)
        fused = fusion.finished() if fusion else None
        late_fusion = fused["accuracy"]["top1"] if fused else None
        stage = [*dirs][-1] if dirs else ""
        result = dirs[stage].finished() if stage else None
        if result is None:
            return cls(folder, record, values, late_fusion=late_fusion)
        return cls(
            folder,
            record,
            values,
            stage,
            result["accuracy"]["top1"],
            result["accuracy"]["mean_class"],
            late_fusion,
            result["protocol"],
            result["epochs"],
        )

    @property
    def state(self) -> str:
        """What became of it, in words."""
        if self.record.state == "running":
            return "killed, or still running"
        return f"{self.record.state}: {self.record.reason}".removesuffix(": ")

    @property
    def seconds(self) -> str:
        """How long it was trained, as h:mm:ss."""
        return str(timedelta(seconds=round(self.record.seconds)))


def print_job(folder: Path) -> None:
    """Print a job's result and its folder."""
    from src.utils.errors import visible

    job = Job.read(folder)
    if job is not None:
        result = "" if job.top1 is None else f"{job.stage} top-1 {job.top1:.1f} %, "
        print(visible(f"{folder.name}: {result}{job.state}, {job.seconds}, {folder}"), flush=True)


def jobs_of_sweep(config: DictConfig, began: float) -> list[Job]:
    """The jobs in a sweep's folder that its command asks for, in its order; of a search all.

    Those that failed or were stopped in an earlier call are none of them.
    """
    asked = given(config)
    swept = {key: override for key, override in asked.items() if override.is_sweep_override()}
    fixed = _telling({k: o.get_value_element_as_str() for k, o in asked.items() if k not in swept})
    order = {
        key: [*override.sweep_string_iterator()]
        for key, override in swept.items()
        if "journal" not in config.hydra.sweeper  # a search, whose trials are in theirs
    }

    def is_asked_for(job: Job) -> bool:
        others = {key: value for key, value in job.values.items() if key not in swept}
        if not swept.keys() <= job.values.keys() or _telling(others) != fixed:
            return False
        if any(job.values[key] not in values for key, values in order.items()):
            return False
        return job.record.state in ENDED_WELL or job.record.began > began - _CLOCKS

    def place(job: Job) -> tuple[float, ...]:
        return (*(order[key].index(job.values[key]) for key in order), job.record.began)

    found = map(Job.read, Path(config.hydra.sweep.dir).glob("*/"))
    return sorted((job for job in found if job and is_asked_for(job)), key=place)


def _telling(values: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in values.items() if not (says_nothing(k) or k.startswith("~"))}


def report_sweep(config: DictConfig, began: float) -> None:
    """Write sweep.csv beside multirun.yaml, and print it with the means over seeds and splits."""
    from rich.console import Console

    from src.utils.commands import shown_command
    from src.utils.console import table
    from src.utils.errors import visible

    jobs = jobs_of_sweep(config, began)
    if not jobs:
        return
    folder = Path(config.hydra.sweep.dir)
    keys = [key for key, override in given(config).items() if override.is_sweep_override()]
    _write(folder / FILE_NAME, keys, jobs)
    short = short_keys(keys)
    stages = list(dict.fromkeys(job.stage for job in jobs if job.stage))
    protocols = list(dict.fromkeys(job.protocol for job in jobs if job.protocol))
    fused = any(job.late_fusion is not None for job in jobs)
    several = len(protocols) > 1
    columns = [*(short[key] for key in keys), f"{' / '.join(stages) or 'last stage'} %"]
    columns += [*(["late fusion %"] * fused), "epochs", "time", "state", *(["protocol"] * several)]
    rows = [
        [
            *(job.values.get(key, "") for key in keys),
            _percent(job.top1),
            *([_percent(job.late_fusion)] * fused),
            "" if job.epochs is None else str(job.epochs),
            job.seconds,
            job.state,
            *([_number(job.protocol, protocols)] * several),
        ]
        for job in jobs
    ]
    console = Console()
    texts = [*(short[key] for key in keys), "state"]
    console.print(visible(f"{config.name}: top-1 of every job"), markup=False, soft_wrap=True)
    console.print(table(columns, rows, left=texts))
    if (means := _means(jobs, keys)) != []:
        rest = [key for key in keys if key not in _repeated()]
        columns = [*(short[key] for key in rest), "top-1 %", "n", *(["protocol"] * several)]
        lines = [
            [*map(str, line[:-1]), *([_number(line[-1], protocols)] * several)] for line in means
        ]
        console.print("mean ± standard deviation over seeds and splits", soft_wrap=True)
        console.print(table(columns, lines, left=[short[key] for key in rest]))
    for protocol in protocols:
        number = f" {_number(protocol, protocols)}" if several else ""
        console.print(f"protocol{number}: {visible(protocol)}", markup=False, soft_wrap=True)
    console.print(f"written to {folder / FILE_NAME}; more of it:", markup=False, soft_wrap=True)
    console.print(f"  {shown_command('report', ('runs', folder))}", markup=False, soft_wrap=True)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _number(protocol: str, protocols: Sequence[str]) -> str:
    return str(1 + protocols.index(protocol)) if protocol else ""


def _repeated() -> tuple[str, ...]:
    from src.reporting.collect import REPEATED

    return REPEATED


def _means(jobs: Sequence[Job], keys: Sequence[str]) -> list[list[Any]]:
    """The values that jobs share beside seed and split, mean and number; the best first."""
    from src.reporting.groups import MeanStd

    rest = [key for key in keys if key not in _repeated()]
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for job in jobs:
        if job.top1 is not None and job.record.state in ("done", "resumed"):
            shared = (*(job.values.get(key, "") for key in rest), job.protocol)
            groups[shared].append(job.top1)
    if all(len(values) < 2 for values in groups.values()):
        return []  # they would be the jobs once more
    means = {shared: MeanStd.of(values) for shared, values in groups.items()}
    best_first = sorted(means, key=lambda shared: means[shared].mean, reverse=True)
    return [[*shared[:-1], means[shared], len(groups[shared]), shared[-1]] for shared in best_first]


def _write(file: Path, keys: Sequence[str], jobs: Sequence[Job]) -> None:
    from src.utils.files import atomic_write

    with (
        atomic_write(file) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        results = ("stage", "top1", "mean_class", "late_fusion_top1", "epochs", "seconds")
        writer.writerow([*keys, *results, "state", "protocol", "directory"])
        for job in jobs:
            values = (job.stage, job.top1, job.mean_class, job.late_fusion, job.epochs)
            seconds = round(job.record.seconds, 1)
            about = (*values, seconds, job.state, job.protocol, job.folder)
            writer.writerow([*(job.values.get(key, "") for key in keys), *about])
