"""The targets of `python -m src.benchmark`: run, printed, kept and compared."""

import contextlib
import gc
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import torch
from omegaconf import DictConfig, ListConfig
from rich.console import Console

from src.benchmarks.fixtures import Fixtures, make_fixtures
from src.benchmarks.flow import flow
from src.benchmarks.harness import Measurement, Speed
from src.benchmarks.lists import lists
from src.benchmarks.readers import decode, loader
from src.benchmarks.startup import startup
from src.benchmarks.step import step
from src.experiment.compose import compose_config
from src.utils.console import quiet, table
from src.utils.errors import UserError, first_line

TARGETS = ("loader", "decode", "flow", "step", "startup", "lists")
LIBRARIES = (
    *("torch", "torchvision", "pytorch-lightning", "opencv-contrib-python-headless", "decord2"),
    *("av", "numpy", "triton"),
)


def run_benchmarks(cfg: DictConfig) -> list[Measurement]:
    """Measure the targets of a config, print a table for each, and save them if asked to.

    Raises:
        UserError: there is no such target, or the figures to compare with cannot be read.
    """
    targets = list(cfg.target) if isinstance(cfg.target, ListConfig) else [cfg.target]
    for target in targets:
        if target not in TARGETS:
            raise UserError(f"target={target}: choose from {', '.join(TARGETS)}")
    earlier = load(Path(cfg.compare)) if cfg.compare else {}
    Console().print(", ".join(f"{name} {value}" for name, value in machine().items()))
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory() as folder:
        fixtures = make_fixtures(Path(folder), cfg.clips) if set(targets) - {"step"} else None
        for target in targets:
            for measurement in _measure(target, cfg, fixtures):
                show(measurement, earlier.get(measurement.title))
                measurements.append(measurement)
    if cfg.output:
        save(measurements, Path(cfg.output))
    return measurements


def _measure(target: str, cfg: DictConfig, fixtures: Fixtures | None) -> Iterator[Measurement]:
    if target == "step" or fixtures is None:
        yield from _steps(cfg)
    elif target == "startup":
        yield startup(fixtures, cfg.startup.videos, cfg.rounds)
    elif target == "lists":
        yield lists(fixtures, cfg.lists.videos, cfg.rounds)
    else:
        with _one_core():
            if target == "loader":
                yield loader(fixtures, cfg.per_round, cfg.rounds)
            elif target == "decode":
                yield from decode(fixtures, cfg.per_round, cfg.rounds)
            else:
                yield flow(fixtures, cfg.flow.pairs, cfg.rounds, cfg.flow.device)


def _steps(cfg: DictConfig) -> Iterator[Measurement]:
    """The step in each setting; one that this machine cannot run is reported and skipped."""
    options, failed = cfg.step, 0
    for setting in options.settings:
        title = " ".join(setting) or "as it is"
        train = compose_config("train", *options.overrides, *setting)
        try:
            with quiet():
                yield step(train, options.stage, title, options.clips, options.steps, cfg.rounds)
        except (UserError, RuntimeError) as error:  # a full GPU is the latter
            failed += 1
            line = f"step: {title}: skipped: {first_line(error)}"
            Console().print(line, markup=False, soft_wrap=True)
        gc.collect()  # trainers and their networks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if failed == len(options.settings):
        raise UserError("target=step: none of step.settings can be run here")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu, about = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if about.is_file():
        lines = (line.partition(":") for line in about.read_text().splitlines())
        cpu = next((value.strip() for key, _, value in lines if key.strip() == "model name"), cpu)
    libraries = {}
    for library in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            libraries[library] = version(library)
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **libraries,
    }


def show(measurement: Measurement, earlier: Measurement | None = None) -> None:
    """Print a table; with the ratios of an earlier measurement, if there is one."""
    columns = ["", f"{measurement.unit}/s", f"x {measurement.rows[0].name}", "lowest - highest"]
    columns += ["before", "note"] if earlier else ["note"]
    before = {row.name: f"{row.ratio:.2f}" for row in earlier.rows} if earlier else {}
    rows = []
    for row in measurement.rows:
        spread = f"{row.lowest:.2f} - {row.highest:.2f}"
        compared = [before.get(row.name, "")] if earlier else []
        rows.append([row.name, f"{row.rate:.4g}", f"{row.ratio:.2f}", spread, *compared, row.note])
    console = Console()
    console.print(table(columns, rows, measurement.title, left=("", "note"), unbroken=[""]))
    for note in measurement.notes:
        console.print(note)
    console.print(f"medians of {measurement.rounds} rounds; ratios within a round")


def save(measurements: Sequence[Measurement], path: Path) -> None:
    """Write measurements and the machine as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "measurements": [asdict(each) for each in measurements]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def load(path: Path) -> dict[str, Measurement]:
    """Read what `save` wrote, by title.

    Raises:
        UserError: the file does not exist or was not written by `save`.
    """
    try:
        tables = {}
        for entry in json.loads(path.read_text())["measurements"]:
            rows = [Speed(**row) for row in entry["rows"]]
            tables[entry["title"]] = Measurement(**entry | {"rows": rows})
        return tables
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no saved benchmark: {error}") from error


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Keep to one core: what a worker process of a loader has."""
    with contextlib.ExitStack() as at_end:
        at_end.callback(cv2.setNumThreads, cv2.getNumThreads())
        at_end.callback(torch.set_num_threads, torch.get_num_threads())
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        if hasattr(os, "sched_setaffinity"):
            cores = os.sched_getaffinity(0)
            at_end.callback(os.sched_setaffinity, 0, cores)
            os.sched_setaffinity(0, {max(cores)})
        yield
