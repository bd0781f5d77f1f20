"""The targets of `python -m src.benchmark`."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from omegaconf import DictConfig, ListConfig
from rich.console import Console

from src.benchmarks import readers
from src.benchmarks.harness import Measurement, load, machine, save, show
from src.benchmarks.material import Material, make_material
from src.errors import UserError

TARGETS = ("loader", "decode")


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
        material = make_material(Path(folder), cfg.clips)
        for target in targets:
            for measurement in _measure(target, cfg, material):
                show(measurement, earlier.get(measurement.title))
                measurements.append(measurement)
    if cfg.output:
        save(measurements, Path(cfg.output))
    return measurements


def _measure(target: str, cfg: DictConfig, material: Material) -> list[Measurement]:
    with _one_core():
        if target == "loader":
            return [readers.loader(material, cfg.per_round, cfg.rounds)]
        return readers.decode(material, cfg.per_round, cfg.rounds)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Keep to one core: what a worker process of a loader has."""
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
        if cores:
            os.sched_setaffinity(0, cores)
