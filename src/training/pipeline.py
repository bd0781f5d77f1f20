"""An experiment: its stages one after the other, each started from those before it.

run_dir/
  appearance/  motion/  joint/  joint_pooled/     one directory per stage, see `run_dir`
  results.csv                                     the table that is printed at the end
"""

import gc
import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from src.data.datamodule import VideoDataModule
from src.data.faults import Faults
from src.data.loading import VideoLoader
from src.errors import UserError
from src.evaluation.analysis import fused_classifiers
from src.evaluation.protocol import LogProtocol
from src.evaluation.samples import save_samples
from src.evaluation.scores import CollectScores, VideoScores, judge_videos
from src.models.build import Plan, build_datamodule, build_module, build_net, build_protocol
from src.models.checkpoints import Description
from src.models.modules import VideoClassifier
from src.ranks import of_first_rank
from src.training.callbacks import DescribeCheckpoint, EpochLine, SeedSteps
from src.training.checks import check_config, check_plans, check_trainer
from src.training.dashboard import Tested, show_test
from src.training.lock import alone_in
from src.training.loggers import build_loggers, closing
from src.training.plan import make_plan, resolve, stage_names
from src.training.progress import progress_bars
from src.training.results import late_fusion, results_of_run
from src.training.run_dir import StageDir, stage_dirs
from src.training.run_end import end_run
from src.training.speed import compile_nets, convolutions_tried, set_tf32, uncompiled
from src.training.throughput import Throughput
from src.training.trainer import build_trainer
from src.training.trial import pruning
from src.training.unreadable import UnreadableVideos
from src.training.warm_start import check_continues, start_from

log = logging.getLogger(__name__)


def run_experiment(cfg: DictConfig, overrides: Sequence[str] | None = None) -> float:
    """Train and test every chosen stage that is not finished yet, and show all results.

    Args:
        cfg: the composed config.
        overrides: of the command line, for the record; None if there was none.

    Returns:
        Video-level top-1 accuracy, in percent, of the table's last row: what a sweep optimises.

    Raises:
        UserError: a mistake in the config or in the data; finished stages stay.
    """
    config = resolve(cfg)
    check_config(config)
    names = stage_names(config)
    plans = {name: make_plan(config, name) for name in names}
    run_dir, dirs = Path(config["paths"]["run_dir"]), stage_dirs(config)
    check_plans(plans, config)
    trainer = check_trainer(cfg, plans)
    for name in names:
        dirs[name].check_whole()
    trainer.strategy.setup_environment()  # ranks meet: they agree on what is there
    pl.seed_everything(config["seed"], verbose=False)
    start = time.monotonic()
    for name, plan in plans.items():
        stage_dir = dirs[name]
        shared = stage_dir.path.parent != run_dir  # with other runs, which may be training it
        finished = of_first_rank(stage_dir.finished())
        with nullcontext() if finished else alone_in(stage_dir.path, wait=shared):
            record = of_first_rank(stage_dir.finished())
            if record:
                stage_dir.check_same(plan, record["plan"], config["resume"] == "force")
                stage_dir.check_tested_by(
                    build_protocol(plan).name, record, config["resume"] == "force"
                )
                log.info("stage %s is finished, its checkpoint is %s", name, stage_dir.checkpoint)
            elif not run_stage(cfg, config, plan, stage_dir, overrides, last=name == names[-1]):
                return math.nan
        gc.collect()  # its trainer and network refer to each other; the next needs their memory
    results = results_of_run(dirs)
    if not results:
        raise UserError(f"no stage in {run_dir} is finished")
    end_run(results, config, time.monotonic() - start)
    return results[-1].accuracy.top1


def run_stage(
    cfg: DictConfig,
    config: dict[str, Any],
    plan: Plan,
    stage_dir: StageDir,
    overrides: Sequence[str] | None = None,
    last: bool = True,
) -> bool:
    """Train one stage, test it on whole videos, and record both in its directory.

    Args:
        cfg: the composed config.
        config: the same, resolved.
        plan: of the stage.
        stage_dir: its directory.
        overrides: of the command line, for the record.
        last: whether it is the experiment's last.

    Returns:
        Whether it is finished; a search may have pruned it.
    """
    name = plan["stage"]
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    data = build_datamodule(plan)
    data.prepare_data()
    data.setup()
    net = build_net(plan)
    module = build_module(plan, net)
    description = Description(
        config=config,
        plan=plan,
        class_names=list(data.videos.classes),
        split=data.split,
        normalisation=module.normalise.describe(),
        flow=asdict(data.flow_made_by) if "flow" in data.modalities else None,
    )
    resume = None
    begun = of_first_rank(stage_dir.begun())
    if begun is not None:
        checkpoint, earlier = begun
        stage_dir.check_same(plan, earlier, config["resume"] == "force")
        if config["resume"] == "force":
            check_continues(module, plan, earlier, checkpoint)
        resume = str(checkpoint)
        log.info("stage %s goes on from %s", name, resume)
    else:
        start_from(plan, stage_dirs(config), net, module.normalise, data)
    compile_nets(config["compile"], net)
    set_tf32(config["tf32"])
    loggers = build_loggers(cfg.logger, config, name, stage_dir.path)
    with closing(loggers):
        protocol = module.protocol.name
        collected = CollectScores(data, protocol)
        unreadable = UnreadableVideos(data, stage_dir.path / "unreadable.txt")
        throughput = Throughput()
        prune = pruning(config, last)
        callbacks = [
            SeedSteps(config["seed"]),
            DescribeCheckpoint(description),
            unreadable,
            EpochLine(name),
            throughput,
            *prune,
            *progress_bars(cfg.trainer, name, throughput),
            collected,
            LogProtocol(protocol),
        ]
        trainer = build_trainer(cfg, plan, callbacks, stage_dir, loggers)
        with convolutions_tried(cfg.trainer.benchmark):
            _fit(trainer, module, data, resume)
        if trainer.interrupted:
            raise KeyboardInterrupt
        if any(one.pruned for one in prune):
            return False
        with uncompiled(config["compile"]):
            trainer.test(module, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            scores = collected.scores
            files = scores.save_all(stage_dir.path)
            samples = save_samples(
                stage_dir.samples,
                data,
                scores,
                module.protocol,
                config["samples"],
                config["seed"],
                trainer.strategy.root_device,
            )
            fused = fused_classifiers(scores) or late_fusion(stage_dirs(config), name, scores)
            checkpoint = stage_dir.checkpoint
            show_test(loggers, Tested(scores, fused, samples, description, checkpoint, files))
    if trainer.is_global_zero:
        _finish(scores, [*unreadable.faults, *scores.faults], stage_dir, description, overrides)
    trainer.strategy.barrier()
    return True


def _fit(
    trainer: pl.Trainer, module: VideoClassifier, data: VideoDataModule, resume: str | None
) -> None:
    try:
        trainer.fit(
            module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None
        )
    except RuntimeError as error:  # a worker that dies interrupts whatever is running
        loader = trainer.train_dataloader
        if isinstance(loader, VideoLoader) and (mistake := loader.explain(error)):
            raise mistake from error
        raise


def _finish(
    scores: VideoScores,
    faults: Sequence[Faults],
    stage_dir: StageDir,
    description: Description,
    overrides: Sequence[str] | None,
) -> None:
    about = {
        "streams": {
            stream: asdict(judge_videos(part)) for stream, part in scores.classifiers().items()
        },
        "faults": [asdict(one) for one in faults],
        "experiment": description.config["name"],
        "split": description.split,
        "seed": description.config["seed"],
        "flow": description.flow,
        "stage_dirs": {  # from here, so that all of them can be moved
            name: os.path.relpath(one.path, stage_dir.path)
            for name, one in stage_dirs(description.config).items()
        },
        "overrides": None if overrides is None else list(overrides),
        "version": description.version,
    }
    stage_dir.finish(description.plan, judge_videos(scores), scores.protocol, about)
