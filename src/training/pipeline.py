"""An experiment: its stages one after the other, each started from those before it.

run_dir/
  appearance/  motion/  joint/  joint_pooled/     one directory per stage, see `run_dir`
  late_fusion/                                    of the two streams, see `late_fusion`
  results.csv                                     the table that is printed at the end
"""

import gc
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from src.data.datamodule import VideoDataModule
from src.data.faults import Faults
from src.data.loading import VideoLoader
from src.data.splits import PARTS
from src.evaluation.analysis import fused_classifiers
from src.evaluation.samples import save_samples
from src.evaluation.scores import CollectScores, VideoScores, video_accuracies
from src.experiment.build import build_datamodule, build_module, build_net
from src.experiment.checkpoint import CheckpointMetadata
from src.experiment.config import StageConfig, config_diff, stage_config, stage_configs
from src.experiment.init_from import check_continues, init_weights, weight_sources
from src.experiment.run_dir import StageDir, stage_dirs
from src.models.modules import VideoClassifier
from src.models.temporal import STREAMS
from src.models.weights import read_checkpoint
from src.training.callbacks import DescribeCheckpoint, EpochLine, FollowConfig, SeedSteps, pruning
from src.training.checks import check_config, check_stages, check_trainer, tell_cap
from src.training.dashboard import Tested, show_test
from src.training.late_fusion import write_late_fusion
from src.training.loggers import Loggers, LogProtocol
from src.training.progress import progress_bars
from src.training.run_end import end_run, results_of_run
from src.training.speed import compile_nets, convolutions_tried, set_tf32, uncompiled
from src.training.throughput import Throughput
from src.training.trainer import accumulation, build_trainer, epochs, updates_per_epoch
from src.training.unreadable import UnreadableVideos
from src.utils.errors import UserError
from src.utils.files import exclusive_lock
from src.utils.ranks import of_first_rank, own_rank

log = logging.getLogger(__name__)


def run_experiment(cfg: DictConfig, overrides: Sequence[str] | None = None) -> float:
    """Train and test every chosen stage that is not finished yet, and show all results.

    Args:
        cfg: the composed config.
        overrides: of the command line, for the record; None if there was none.

    Returns:
        Video-level top-1 accuracy, in percent, of the table's last row: what a sweep optimizes.

    Raises:
        UserError: a mistake in the config or in the data; finished stages stay.
    """
    check_config(cfg)
    configs, dirs = stage_configs(cfg, overrides or ()), stage_dirs(cfg)
    force = cfg.resume == "force"
    check_stages(configs, dirs)
    trainer = check_trainer(cfg, configs)
    tell_cap(configs)
    for name in configs:
        dirs[name].check_complete()
    trainer.strategy.setup_environment()  # ranks meet: they agree on what is there
    pl.seed_everything(cfg.seed, verbose=False)
    start = time.monotonic()
    observers, trained = Loggers(cfg.logger), set[str]()
    for name, config in configs.items():
        stage_dir = dirs[name]
        shared = stage_dir.path.parent != Path(cfg.paths.run_dir)  # another run may be training it
        finished = of_first_rank(stage_dir.finished())
        lock = exclusive_lock(
            stage_dir.path / ".lock",
            "give another paths.run_dir",
            wait=shared,
            holds=own_rank() == 0,
            agree=of_first_rank,
        )
        with nullcontext() if finished and not force else lock:
            record = of_first_rank(stage_dir.finished())
            if record and not (force and epochs(config) > epochs(record["config"])):
                stage_dir.check_resumable(config, record["config"], force)
                _tell_finished(stage_dir, config, record["config"], trained)
                continue
            last = name == list(configs)[-1]
            if not run_stage(cfg, config, dirs, trainer.world_size, observers, overrides, last):
                return math.nan
            trained.add(name)
        gc.collect()  # its trainer and network refer to each other; the next needs their memory
    shown = _shown(cfg, dirs)
    for name in dirs.keys() - shown.keys():
        log.info("stage %s in %s was trained with another config: not shown", name, dirs[name].path)
    if own_rank() == 0:
        write_late_fusion(shown)
    of_first_rank(None)  # the others read what it has written
    results = results_of_run(shown)
    if not results:
        raise UserError(f"no stage in {cfg.paths.run_dir} is finished")
    end_run(results, config, dirs, time.monotonic() - start)
    return results[-1].accuracy.top1


def _tell_finished(
    stage_dir: StageDir, config: StageConfig, earlier: StageConfig, trained: set[str]
) -> None:
    name = config["stage"]
    log.info("stage %s is finished, its checkpoint is %s", name, stage_dir.final)
    if changed := config_diff(config, earlier):  # with resume=force
        log.warning(
            "stage %s was trained with another config (%s there), and nothing is left to train: "
            "its result is of that config; a larger stages.%s.max_epochs would train on",
            name,
            changed,
            name,
        )
    for source in trained.intersection(filter(None, weight_sources(config).values())):
        log.warning(
            "stage %s started from stage %s as it was before: delete %s to train it again",
            name,
            source,
            stage_dir.path,
        )


def _shown(cfg: DictConfig, dirs: Mapping[str, StageDir]) -> dict[str, StageDir]:
    """The stages whose results are of this config, or not there yet; all with resume=force."""
    records = {name: stage_dir.finished() for name, stage_dir in dirs.items()}
    return {
        name: dirs[name]
        for name, record in records.items()
        if not record
        or cfg.resume == "force"
        or config_diff(stage_config(cfg, name), record["config"]) is None
    }


def run_stage(
    cfg: DictConfig,
    config: StageConfig,
    dirs: Mapping[str, StageDir],
    devices: int,
    observers: Loggers,
    overrides: Sequence[str] | None = None,
    last: bool = True,
) -> bool:
    """Train one stage, test it on full videos, and record both in its directory.

    Args:
        cfg: the composed config.
        config: of the stage.
        dirs: the directories of all stages of the experiment.
        devices: over which it is trained.
        observers: what sees it; they cannot fail it once it has begun.
        overrides: of the command line, for the record.
        last: whether it is the last stage to run.

    Returns:
        Whether it is finished; a search may have pruned it.
    """
    name = config["stage"]
    stage_dir = dirs[name]
    with observers.of_stage(stage_dir.path, config) as loggers:
        ready = _prepare(config, dirs, devices)
        data, module, description = ready.data, ready.module, ready.description
        protocol = module.protocol.name
        collected = CollectScores(data, protocol)
        unreadable = UnreadableVideos(data, stage_dir.path / "unreadable.txt")
        throughput = Throughput()
        prune = pruning(config, last)
        callbacks = [
            SeedSteps(config["seed"]),
            DescribeCheckpoint(description),
            *ready.follow,
            unreadable,
            EpochLine(name, PARTS[data.val_part]),
            throughput,
            *prune,
            *progress_bars(cfg.trainer, name, throughput),
            collected,
            LogProtocol(protocol),
        ]
        resume = ready.checkpoint
        trainer = build_trainer(cfg, config, callbacks, stage_dir, loggers, resume is not None)
        with convolutions_tried(cfg.trainer.benchmark):
            _fit(trainer, module, data, resume)
        if trainer.interrupted:
            raise KeyboardInterrupt
        if any(one.pruned for one in prune):
            return False
        if not of_first_rank(stage_dir.checkpoint.is_file()):
            raise UserError(
                f"stage {name}: training ended without a checkpoint, there is nothing to test"
            )
        progress: Any = trainer.fit_loop.epoch_progress.current
        trained = progress.processed
        if trained < (trainer.max_epochs or 0):
            log.info("stage %s: ended early, after epoch %d/%d", name, trained, trainer.max_epochs)
        final = stage_dir.tested(config)
        if final != stage_dir.checkpoint:
            _load_best(module, final)
        with uncompiled(config["compile"]):
            trainer.test(module, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            scores = collected.scores
            files = scores.save_all(stage_dir.path)
            faults = [*unreadable.faults, *scores.faults]
            _finish(scores, faults, dirs, description, trained, overrides)
            try:
                streams = write_late_fusion(_shown(cfg, dirs)) if name in STREAMS else None
                samples = save_samples(
                    stage_dir.samples,
                    data,
                    scores,
                    module.protocol,
                    config["num_sample_videos"],
                    config["seed"],
                    trainer.strategy.root_device,
                )
                fused = fused_classifiers(scores) or streams
                show_test(loggers, Tested(scores, fused, samples, description, final, files))
            except Exception as error:  # pictures, as loggers, cannot fail what is recorded
                log.warning("stage %s is finished, but not all shown: %s", name, error)
    trainer.strategy.barrier()
    return True


@dataclass(frozen=True)
class _Ready:
    """What a stage is trained with: from a checkpoint, if there is one, or from its start."""

    data: VideoDataModule
    module: VideoClassifier
    description: CheckpointMetadata
    checkpoint: Path | None = None
    follow: Sequence[pl.Callback] = ()  # with resume=force


def _prepare(config: StageConfig, dirs: Mapping[str, StageDir], devices: int) -> _Ready:
    name = config["stage"]
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    data = build_datamodule(config)
    data.prepare_data()
    data.setup()
    net = build_net(config)
    updates = updates_per_epoch(config, len(data.videos.train), devices)
    module = build_module(config, net, total_steps=updates * config["max_epochs"])
    module.weigh_classes([video.label for video in data.videos.train])
    description = CheckpointMetadata(
        config=config,
        class_names=list(data.videos.classes),
        split=data.split,
        normalization=module.normalize.describe(),
        flow=asdict(data.flow_made_by) if "flow" in data.modalities else None,
    )
    ready = _Ready(data, module, description)
    begun = of_first_rank(dirs[name].begun())
    if begun is not None:
        checkpoint, earlier = begun
        force = config["resume"] == "force"
        dirs[name].check_resumable(config, earlier, force)
        if force:
            check_continues(module, config, earlier, checkpoint)
        log.info("stage %s resumes from %s", name, checkpoint)
        follow = [FollowConfig(updates)] if force else []
        ready = _Ready(data, module, description, checkpoint, follow)
    else:
        init_weights(config, dirs, net, module.normalize, data)
    _tell_batch(config, devices)
    compile_nets(config["compile"], net)
    set_tf32(config["tf32"])
    return ready


def _tell_batch(config: StageConfig, devices: int) -> None:
    at_once, steps = config["data"]["batch_size"], accumulation(config, devices)
    log.info(
        "stage %s: %d clips an update = %d clips x %d device%s x %d accumulated step%s",
        config["stage"],
        config["effective_batch_size"],
        at_once,
        devices,
        "s" if devices > 1 else "",
        steps,
        "s" if steps > 1 else "",
    )


def _fit(
    trainer: pl.Trainer, module: VideoClassifier, data: VideoDataModule, resume: Path | None
) -> None:
    try:
        trainer.fit(
            module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None
        )
    except RuntimeError as error:  # a worker that dies interrupts whatever is running
        loader = trainer.train_dataloader
        if isinstance(loader, VideoLoader) and (mistake := loader.explain(error)):
            raise mistake from error
        if "returned nan values" in str(error):  # trainer.detect_anomaly has warned where
            raise UserError(
                f"{str(error).rstrip('.')}: the last lines of the warning above show its call in "
                "the forward pass; look at what goes into it, or lower the learning rate"
            ) from error
        raise


def _load_best(module: VideoClassifier, checkpoint: Path) -> None:
    """Have a trained module continue with the weights of its best epoch."""
    content = read_checkpoint(str(checkpoint))
    module.load_state_dict(content["state_dict"])
    log.info("epoch %d was the best in validation: %s", content["epoch"] + 1, checkpoint)


def _finish(
    scores: VideoScores,
    faults: Sequence[Faults],
    dirs: Mapping[str, StageDir],
    description: CheckpointMetadata,
    epochs_trained: int,
    overrides: Sequence[str] | None,
) -> None:
    config = description.config
    stage_dir = dirs[config["stage"]]
    about = {
        "epochs": epochs_trained,
        "streams": {
            stream: asdict(video_accuracies(part)) for stream, part in scores.classifiers().items()
        },
        "faults": [asdict(one) for one in faults],
        "flow": description.flow,
        "stage_dirs": {  # from here, so that all of them can be moved
            name: os.path.relpath(one.path, stage_dir.path) for name, one in dirs.items()
        },
        "overrides": None if overrides is None else list(overrides),
        "version": description.version,
    }
    stage_dir.finish(config, asdict(video_accuracies(scores)), scores.protocol, about)
