"""An experiment: its stages one after the other, each started from those before it.

run_dir/
  appearance/  motion/  joint/  joint_pooled/     one directory per stage, see `run_dir`
  late_fusion/                                    of the two streams, see `late_fusion`
  results.csv                                     the table that is printed at the end
"""

import gc
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from src.data.datamodule import VideoDataModule
from src.data.faults import Faults
from src.data.loading import VideoLoader
from src.data.videos import PARTS
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
from src.training.callbacks import DescribeCheckpoint, EpochLine, FollowConfig, Prune, SeedSteps
from src.training.checks import check_config, check_stages, check_trainer, tell_cap
from src.training.dashboard import Tested, show_test
from src.training.late_fusion import write_late_fusion
from src.training.loggers import Loggers, log_text
from src.training.progress import progress_bars
from src.training.run_end import end_run, results_of_run
from src.training.speed import compile_nets, convolutions_tried, set_tf32
from src.training.throughput import Throughput
from src.training.trainer import accumulation, build_trainer, epochs, updates_per_epoch
from src.training.unreadable import UnreadableVideos
from src.utils.errors import UserError
from src.utils.files import exclusive_lock
from src.utils.ranks import of_first_rank, own_rank

log = logging.getLogger(__name__)


def run_experiment(cfg: DictConfig, overrides: Sequence[str] | None = None) -> float:
    """Train and test every chosen stage that is not finished yet, and show all results.

    The overrides of the command line, if there was one, are kept in the stages' records.

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
            stage_dir.lock,
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
            if trained:  # their trainers and networks refer to each other; this needs their memory
                gc.collect()
            if not _run_stage(cfg, configs, name, dirs, trainer.world_size, observers, overrides):
                return math.nan
            trained.add(name)
    shown = _shown(cfg, configs, dirs)
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
            f"stage {name} was trained with another config ({changed} there), and nothing is left "
            f"to train: its result is of that config; a larger stages.{name}.max_epochs would "
            "train on"
        )
    for source in trained.intersection(filter(None, weight_sources(config).values())):
        log.warning(
            f"stage {name} started from stage {source} as it was before: delete {stage_dir.path} "
            "to train it again"
        )


def _shown(
    cfg: DictConfig, configs: Mapping[str, StageConfig], dirs: Mapping[str, StageDir]
) -> dict[str, StageDir]:
    """The stages whose results are of this config, or not there yet; all with resume=force."""
    return {
        name: stage_dir
        for name, stage_dir in dirs.items()
        if cfg.resume == "force"
        or not (record := stage_dir.finished())
        or not config_diff(configs.get(name) or stage_config(cfg, name), record["config"])
    }


def _run_stage(
    cfg: DictConfig,
    configs: Mapping[str, StageConfig],
    name: str,
    dirs: Mapping[str, StageDir],
    devices: int,
    observers: Loggers,
    overrides: Sequence[str] | None,
) -> bool:
    """Train one stage, test it on full videos and record both; False if a search pruned it."""
    config, stage_dir = configs[name], dirs[name]
    with observers.of_stage(stage_dir.path, config) as loggers:
        data, module, resume = _prepare(config, dirs, devices)
        metadata = CheckpointMetadata(
            config=config,
            class_names=list(data.videos.classes),
            split=data.split,
            normalization=module.normalize.describe(),
            flow=asdict(data.flow_made_by) if "flow" in data.modalities else None,
        )
        protocol = module.protocol
        collected = CollectScores(data, protocol.name)
        unreadable = UnreadableVideos(data, stage_dir.path / "unreadable.txt")
        throughput = Throughput()
        follow, prune = [], []
        last = name == list(configs)[-1]
        if config["trial"] and last:  # a search, whose trial has the result of the last stage
            prune = [Prune(**config["trial"], folder=config["paths"]["run_dir"])]
        if resume and cfg.resume == "force":
            follow = [FollowConfig(updates_per_epoch(config, len(data.videos.train), devices))]
        callbacks = [
            SeedSteps(config["seed"]),
            DescribeCheckpoint(metadata),
            *follow,
            unreadable,
            EpochLine(name, PARTS[data.val_part]),
            throughput,
            *prune,
            *progress_bars(cfg.trainer, name, throughput),
            collected,
        ]
        trainer = build_trainer(cfg, config, callbacks, stage_dir, loggers, resume is not None)
        with convolutions_tried(cfg.trainer.benchmark):
            _fit(trainer, module, data, resume)
        if trainer.interrupted:
            raise KeyboardInterrupt
        if any(callback.pruned for callback in prune):
            return False
        if not of_first_rank(stage_dir.checkpoint.is_file()):
            raise UserError(
                f"stage {name}: training ended without a checkpoint, there is nothing to test"
            )
        trained = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        if trained < (trainer.max_epochs or 0):
            log.info("stage %s: ended early, after epoch %d/%d", name, trained, trainer.max_epochs)
        final = stage_dir.tested(config)
        if final != stage_dir.checkpoint:
            best = read_checkpoint(final)
            module.load_state_dict(best["state_dict"])
            log.info("epoch %d was the best in validation: %s", best["epoch"] + 1, final)
        log_text(trainer, "test/protocol", protocol.name)
        # Full frames have another size in almost every video: compiling takes longer than the test.
        eager = torch.compiler.set_stance("force_eager") if config["compile"] else nullcontext()
        with eager:
            trainer.test(module, datamodule=data, verbose=False)
        if trainer.is_global_zero:
            scores = collected.scores
            files = scores.save_all(stage_dir)
            faults = [*unreadable.faults, *scores.faults]
            _finish(scores, faults, dirs, metadata, trained, overrides)
            try:
                streams = write_late_fusion(_shown(cfg, configs, dirs)) if name in STREAMS else None
                count, seed = config["num_sample_videos"], config["seed"]
                device = trainer.strategy.root_device
                folder = stage_dir.samples
                samples = save_samples(folder, data, scores, protocol, count, seed, device)
                fused = fused_classifiers(scores) or streams
                show_test(loggers, Tested(scores, fused, samples, metadata, final, files))
            except Exception as error:  # pictures, as loggers, cannot fail what is recorded
                log.warning("stage %s is finished, but not all shown: %s", name, error)
    trainer.strategy.barrier()
    return True


def _prepare(
    config: StageConfig, dirs: Mapping[str, StageDir], devices: int
) -> tuple[VideoDataModule, VideoClassifier, Path | None]:
    """A stage's data, its module, and the checkpoint that it resumes from, if there is one."""
    name = config["stage"]
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    data = build_datamodule(config)
    data.prepare_data()
    data.setup()
    net = build_net(config)
    updates = updates_per_epoch(config, len(data.videos.train), devices)
    module = build_module(config, net, total_steps=updates * config["max_epochs"])
    module.weigh_classes(data.videos.train.labels.tolist())
    checkpoint, earlier = of_first_rank(dirs[name].begun()) or (None, None)
    if checkpoint is None or earlier is None:
        init_weights(config, dirs, net, module.normalize, data)
    else:
        force = config["resume"] == "force"
        dirs[name].check_resumable(config, earlier, force)
        if force:
            check_continues(module, config, earlier, checkpoint)
        log.info("stage %s resumes from %s", name, checkpoint)
    at_once, steps = config["data"]["batch_size"], accumulation(config, devices)
    log.info(
        f"stage {name}: {config['effective_batch_size']} clips an update = {at_once} clips x "
        f"{devices} device{'s' * (devices > 1)} x {steps} accumulated step{'s' * (steps > 1)}"
    )
    compile_nets(config["compile"], net)
    set_tf32(config["tf32"])
    return data, module, checkpoint


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


def _finish(
    scores: VideoScores,
    faults: Sequence[Faults],
    dirs: Mapping[str, StageDir],
    metadata: CheckpointMetadata,
    epochs_trained: int,
    overrides: Sequence[str] | None,
) -> None:
    about = {
        "protocol": scores.protocol,
        "accuracy": asdict(video_accuracies(scores)),
        "epochs": epochs_trained,
        "streams": {
            stream: asdict(video_accuracies(part)) for stream, part in scores.classifiers().items()
        },
        "faults": list(map(asdict, faults)),
        "flow": metadata.flow,
        "overrides": None if overrides is None else list(overrides),
        "version": metadata.version,
    }
    dirs[metadata.config["stage"]].finish(metadata.config, dirs, about)
