"""What a sweep ends in: a table of its jobs, and of those that differ in seed or split alone.

Everything is read from the records of the jobs and of their stages, whatever launched them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from src.experiment.sweeps import given, says_nothing, short_keys
from src.reporting.collect import REPEATED
from src.reporting.groups import MeanStd
from src.training.late_fusion import late_fusion_dir
from src.training.run_record import DONE, PRUNED, RESUMED, RUNNING, RunRecord
from src.utils.commands import shown_command
from src.utils.console import table
from src.utils.errors import visible
from src.utils.files import write_csv

FILE_NAME = "sweep.csv"
_CLOCKS = 60.0  # seconds by which the clocks of machines may differ


@dataclass(frozen=True)
class Job:
    """A job of a sweep, and what its stages have shown."""

    folder: Path
    record: RunRecord
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
        if self.record.state == RUNNING:
            return "killed, or still running"
        return f"{self.record.state}: {self.record.reason}".removesuffix(": ")

    @property
    def seconds(self) -> str:
        """How long it was trained, as h:mm:ss."""
        return str(timedelta(seconds=round(self.record.seconds)))


def print_job(folder: Path) -> None:
    """Print a job's result and its folder."""
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
        return job.record.state in (DONE, RESUMED, PRUNED) or job.record.began > began - _CLOCKS

    def place(job: Job) -> tuple[float, ...]:
        return (*(order[key].index(job.values[key]) for key in order), job.record.began)

    jobs = map(Job.read, Path(config.hydra.sweep.dir).glob("*/"))
    return sorted((job for job in jobs if job and is_asked_for(job)), key=place)


def _telling(values: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in values.items() if not (says_nothing(k) or k.startswith("~"))}


def report_sweep(config: DictConfig, began: float) -> None:
    """Write sweep.csv beside multirun.yaml, and print it with the means over seeds and splits."""
    jobs = jobs_of_sweep(config, began)
    if not jobs:
        return
    folder = Path(config.hydra.sweep.dir)
    keys = [key for key, override in given(config).items() if override.is_sweep_override()]
    _write(folder / FILE_NAME, keys, jobs)
    protocols = list(dict.fromkeys(job.protocol for job in jobs if job.protocol))
    console = Console(soft_wrap=True, highlight=False)
    console.print(visible(f"{config.name}: top-1 of every job"), markup=False)
    console.print(_jobs_table(jobs, keys, protocols), soft_wrap=False)
    alike = _alike(jobs, keys)
    if any(len(values) > 1 for values in alike.values()):
        console.print("mean ± standard deviation over seeds and splits")
        console.print(_means_table(alike, keys, protocols), soft_wrap=False)
    for protocol in protocols:
        number = f" {_number(protocol, protocols)}" if protocols[1:] else ""
        console.print(visible(f"protocol{number}: {protocol}"), markup=False)
    console.print(visible(f"written to {folder / FILE_NAME}; more of it:"), markup=False)
    console.print(f"  {shown_command('report', ('runs', folder))}", markup=False)


def _jobs_table(jobs: Sequence[Job], keys: Sequence[str], protocols: Sequence[str]) -> Any:
    short = short_keys(keys)
    stages = dict.fromkeys(job.stage for job in jobs if job.stage)
    fused = any(job.late_fusion is not None for job in jobs)
    columns = {short[key]: [job.values.get(key, "") for job in jobs] for key in keys}
    columns[f"{' / '.join(stages) or 'last stage'} %"] = [_percent(job.top1) for job in jobs]
    if fused:
        columns["late fusion %"] = [_percent(job.late_fusion) for job in jobs]
    columns["epochs"] = ["" if job.epochs is None else str(job.epochs) for job in jobs]
    columns["time"] = [job.seconds for job in jobs]
    columns["state"] = [job.state for job in jobs]
    if protocols[1:]:
        columns["protocol"] = [_number(job.protocol, protocols) for job in jobs]
    rows = zip(*columns.values(), strict=True)
    return table([*columns], rows, left=[*short.values(), "state"])


def _means_table(
    alike: Mapping[tuple[str, ...], Sequence[float]], keys: Sequence[str], protocols: Sequence[str]
) -> Any:
    """The best first."""
    means = {shared: MeanStd.of(values) for shared, values in alike.items()}
    short = [short_keys(keys)[key] for key in keys if key not in REPEATED]
    rows = []
    for shared in sorted(means, key=lambda shared: means[shared].mean, reverse=True):
        *values, protocol = shared
        row = [*values, str(means[shared]), str(len(alike[shared]))]
        rows.append([*row, _number(protocol, protocols)] if protocols[1:] else row)
    return table([*short, "top-1 %", "n", *(["protocol"] * bool(protocols[1:]))], rows, left=short)


def _alike(jobs: Sequence[Job], keys: Sequence[str]) -> dict[tuple[str, ...], list[float]]:
    """Results of jobs that differ in seed and split alone, by the other values and the protocol."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for job in jobs:
        if job.top1 is not None and job.record.state in (DONE, RESUMED):
            shared = [job.values.get(key, "") for key in keys if key not in REPEATED]
            groups[*shared, job.protocol].append(job.top1)
    return groups


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _number(protocol: str, protocols: Sequence[str]) -> str:
    return str(1 + protocols.index(protocol)) if protocol else ""


def _write(file: Path, keys: Sequence[str], jobs: Sequence[Job]) -> None:
    results = ("stage", "top1", "mean_class", "late_fusion_top1", "epochs", "seconds")
    rows: list[list[object]] = [[*keys, *results, "state", "protocol", "directory"]]
    for job in jobs:
        values = (job.stage, job.top1, job.mean_class, job.late_fusion, job.epochs)
        about = (*values, round(job.record.seconds, 1), job.state, job.protocol, str(job.folder))
        rows.append([*(job.values.get(key, "") for key in keys), *about])
    write_csv(file, rows)
