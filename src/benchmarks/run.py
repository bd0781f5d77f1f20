"""The targets of `python -m src.benchmark`."""

import contextlib
import gc
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from hydra import compose
from omegaconf import DictConfig, ListConfig
from rich.console import Console

from src.benchmarks import flow, readers
from src.benchmarks.first_batch import first_batches, make_dataset
from src.benchmarks.harness import Measurement, load, machine, save, show
from src.benchmarks.material import Material, make_material
from src.benchmarks.memory import memory
from src.benchmarks.network import network
from src.benchmarks.startup import startup
from src.benchmarks.step import step
from src.errors import UserError
from src.experiment.build import build_net
from src.experiment.config import stage_config

TARGETS = ("loader", "decode", "extract", "flow", "memory", "network", "step", "startup")
ON_CLIPS = (*TARGETS[:5], "startup")


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
        material = None
        if set(targets) & set(ON_CLIPS):
            material = make_material(Path(folder), cfg.clips)
        for target in targets:
            for measurement in _measure(target, cfg, material):
                show(measurement, earlier.get(measurement.title))
                measurements.append(measurement)
    if cfg.output:
        save(measurements, Path(cfg.output))
    return measurements


def _measure(target: str, cfg: DictConfig, material: Material | None) -> Iterator[Measurement]:
    if target == "network":
        config = stage_config(compose("train", list(cfg.network.overrides)), "joint")
        shape = config["data"]["frames"], config["data"]["crop_size"]
        yield from network(build_net(config), cfg.network.clips, *shape, cfg.rounds)
    elif target == "step":
        yield from _steps(cfg)
    if material is None:
        return
    if target == "startup":
        root, videos = material.root / "ucf101", cfg.startup.videos
        make_dataset(root, material, videos)
        places = (f"data.dataset.root={root}", "data.videos.cache_dir=null")
        train = compose("train", ["experiment=st_resnet_ucf101", *places])
        config = stage_config(train, "joint")
        yield startup(config, material.root, videos, cfg.rounds)
        yield first_batches(config, material.root / "index", videos, cfg.rounds)
    if target == "memory":
        memory(material, cfg.memory.clips, cfg.memory.workers)
    if target == "extract":
        with _quiet("src.flow"):
            yield flow.extraction(material, cfg.rounds, cfg.extract.algorithm, cfg.extract.frames)
    with _one_core():
        if target == "loader":
            yield readers.loader(material, cfg.per_round, cfg.rounds)
        elif target == "decode":
            yield from readers.decode(material, cfg.per_round, cfg.rounds)
        elif target == "flow":
            yield flow.algorithms(material, cfg.flow.pairs, cfg.rounds, cfg.flow.device)


def _steps(cfg: DictConfig) -> Iterator[Measurement]:
    """The step in each setting; one that this machine cannot run is told, and left out."""
    wanted, failed = cfg.step, 0
    for setting in wanted.settings:
        title = " ".join(setting) or "as it is"
        train = compose("train", [*wanted.overrides, *setting])
        try:
            with _quiet("src.training"):
                yield step(train, wanted.stage, title, wanted.clips, wanted.steps, cfg.rounds)
        except (
            UserError,
            RuntimeError,
        ) as error:  # a full GPU is the latter
            failed += 1
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            Console().print(f"step: {title}: left out: {reason}", markup=False, soft_wrap=True)
        gc.collect()  # trainers and their networks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if failed == len(wanted.settings):
        raise UserError("target=step: none of step.settings can be run here")


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger's progress to itself: it is not of interest here."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


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
