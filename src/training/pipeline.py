"""An experiment: its stages one after the other, each started from those before it.

run_dir/
  appearance/  motion/  joint/  joint_pooled/     one directory per stage, see `run_dir`
  results.csv                                     the table that is printed at the end
"""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from src.data.datamodule import VideoDataModule
from src.errors import UserError
from src.evaluation.protocol import protocol_name
from src.evaluation.scores import CollectScores, VideoScores, judge_videos
from src.evaluation.table import Result, save_results, show_results
from src.hardware import peak_memory_gib
from src.models.build import Plan, build_datamodule, build_module, build_net
from src.models.checkpoints import KEY, Description
from src.models.weights import imagenet_weights, load_weights, net_weights, read_checkpoint
from src.training.callbacks import DescribeCheckpoint, EpochLine
from src.training.loggers import build_loggers, close_loggers
from src.training.plan import make_plan, resolve, stage_names
from src.training.results import results_of_run
from src.training.run_dir import StageDir

log = logging.getLogger(__name__)


def run_experiment(cfg: DictConfig) -> float:
    """Train and test every chosen stage that is not finished yet, and show all results.

    Returns:
        Video-level top-1 accuracy, in percent, of the table's last row: what a sweep optimises.

    Raises:
        UserError: a mistake in the config or in the data; finished stages stay.
    """
    config = resolve(cfg)
    names = stage_names(config)
    plans = {name: make_plan(config, name) for name in names}
    run_dir = Path(config["paths"]["run_dir"])
    check_plans(plans, config, run_dir)
    check_trainer(cfg, plans)
    pl.seed_everything(config["seed"], verbose=False)
    start = time.monotonic()
    for name, plan in plans.items():
        stage_dir = StageDir(run_dir / name)
        record = stage_dir.finished()
        if record:
            stage_dir.check_same(plan, record["plan"], config["resume"] == "force")
            log.info("stage %s is finished, its checkpoint is %s", name, stage_dir.checkpoint)
        else:
            run_stage(cfg, config, plan, stage_dir)
    results = results_of_run(run_dir, list(config["stages"]))
    if not results:
        raise UserError(f"no stage in {run_dir} is finished")
    _report(results, config, run_dir, time.monotonic() - start)
    return results[-1].accuracy.top1


def check_plans(plans: Mapping[str, Plan], config: Mapping[str, Any], run_dir: Path) -> None:
    """Find what can be wrong before any data is read: networks, schedules, sources of weights."""
    if not plans:
        raise UserError("only=... and skip=... leave no stage to run")
    for name, plan in plans.items():
        data = build_datamodule(plan)
        with torch.device("meta"):  # shapes only: no memory, no time
            try:
                build_module(plan, build_net(plan)).logits(_empty_batch(data))
            except (ValueError, RuntimeError) as error:
                raise UserError(f"stage {name}: {error}") from error
        for source in _sources(plan).values():
            if source is None or source in plans:
                continue
            if source in config["stages"]:
                checkpoint_of_stage(run_dir, source, name)
            elif Path(source).suffix:
                read_checkpoint(source)


def check_trainer(cfg: DictConfig, plans: Mapping[str, Plan]) -> None:
    """Find what is wrong with the trainer, the seed or the batches before any data is read."""
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise UserError(f"seed={cfg.seed}: needs a whole number from 0")
    trainer = instantiate(cfg.trainer, logger=False, enable_checkpointing=False, _convert_="all")
    for plan in plans.values():
        accumulation(plan, trainer.world_size)


def accumulation(plan: Plan, devices: int) -> int:
    """Steps whose gradients are added up for one update."""
    per_step = plan["data"]["batch_size"] * devices
    steps, rest = divmod(plan["batch_size"], per_step)
    if rest or not steps:
        raise UserError(
            f"stages.{plan['stage']}.batch_size={plan['batch_size']} is not a multiple of "
            f"{per_step}: data.batch_size={plan['data']['batch_size']} clips on each of "
            f"{devices} devices"
        )
    return steps


def _empty_batch(data: VideoDataModule) -> dict[str, torch.Tensor]:
    """A batch of one training clip without content, on the default device."""
    size = (data.frames, data.crop_size, data.crop_size)
    channels = {"rgb": 3, "flow": 2 * data.stack}
    return {
        modality: torch.empty(1, channels[modality], *size, dtype=torch.uint8)
        for modality in data.modalities
    }


def run_stage(cfg: DictConfig, config: dict[str, Any], plan: Plan, stage_dir: StageDir) -> None:
    """Train one stage, test it on whole videos, and record both in its directory."""
    name = plan["stage"]
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    stage_dir.path.mkdir(parents=True, exist_ok=True)
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
        flow=asdict(data.flow) if "flow" in data.modalities else None,
    )
    resume = None
    if stage_dir.checkpoint.is_file():
        earlier, _ = Description.read(str(stage_dir.checkpoint))
        stage_dir.check_same(plan, earlier.plan, config["resume"] == "force")
        resume = str(stage_dir.checkpoint)
        log.info("stage %s goes on from %s", name, resume)
    else:
        _start_from(plan, config, net, data, stage_dir.path.parent)
    loggers = build_loggers(cfg.logger, config, name, stage_dir.path)
    try:
        collected = CollectScores()
        callbacks = [DescribeCheckpoint(description), EpochLine(name), collected]
        trainer = build_trainer(cfg, plan, callbacks, stage_dir, loggers)
        module.trainer = trainer
        trainer.fit(
            module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None
        )
        if trainer.interrupted:
            raise KeyboardInterrupt
        trainer.test(module, datamodule=data, verbose=False)
    finally:
        close_loggers(loggers)
    if trainer.is_global_zero:
        _save_scores(collected.scores, data, stage_dir, plan)
    trainer.strategy.barrier()


def build_trainer(
    cfg: DictConfig, plan: Plan, callbacks: list[pl.Callback], stage_dir: StageDir, loggers: Any
) -> pl.Trainer:
    """Lightning's Trainer for one stage: its length, its batch, its checkpoint."""
    epochs = instantiate(plan["module"]["schedule"], _convert_="all").epochs
    cap = plan["limits"]["max_epochs"]
    checkpoint = ModelCheckpoint(
        dirpath=stage_dir.path,
        filename=stage_dir.checkpoint.stem,
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    chosen = [instantiate(callback) for callback in (cfg.callbacks or {}).values()]
    trainer = instantiate(
        cfg.trainer,
        max_epochs=epochs if cap is None else min(epochs, cap),
        callbacks=[*callbacks, *chosen, checkpoint],
        logger=loggers,
        default_root_dir=str(stage_dir.path),
        enable_progress_bar=sys.stderr.isatty(),
        use_distributed_sampler=False,  # ours deals each test video to one rank only
        _convert_="all",
    )
    trainer.accumulate_grad_batches = accumulation(plan, trainer.world_size)
    return trainer


def _sources(plan: Plan) -> dict[str, str | None]:
    """Where each part of the net starts from; the whole net is the part ""."""
    source = plan["start_from"]
    return dict(source) if isinstance(source, Mapping) else {"": source}


def checkpoint_of_stage(run_dir: Path, source: str, wanted_by: str) -> Path:
    """The final checkpoint of an earlier stage of this run."""
    stage_dir = StageDir(run_dir / source)
    if stage_dir.finished() is None:
        raise UserError(
            f"stage {wanted_by} starts from stage {source}, which is not finished in {run_dir}: "
            f"run it first, or give a checkpoint as stages.{wanted_by}.start_from"
        )
    return stage_dir.checkpoint


def _start_from(
    plan: Plan, config: Mapping[str, Any], net: Any, data: VideoDataModule, run_dir: Path
) -> None:
    """Load the weights that a stage starts from: a stage, a file, or ImageNet's by enum name."""
    for part, source in _sources(plan).items():
        if source is None:
            continue
        target = net.get_submodule(part)
        if source not in config["stages"] and not Path(source).suffix:
            weights = imagenet_weights(target, source)
        else:
            if source in config["stages"]:
                source = str(checkpoint_of_stage(run_dir, source, plan["stage"]))
            content = read_checkpoint(source)
            if KEY in content:
                Description(**content[KEY]).check_fits(data, source)
            weights = net_weights(content)
        report = load_weights(target, weights, str(source))
        log.info("%s %s starts from %s: %s", plan["stage"], part, source, report)


def _save_scores(
    scores: VideoScores, data: VideoDataModule, stage_dir: StageDir, plan: Plan
) -> None:
    scores.save(stage_dir.scores(), data.videos.classes)
    if len(scores.streams) > 1:
        for stream in scores.streams:
            scores.of_stream(stream).save(stage_dir.scores(stream), data.videos.classes)
    stage_dir.finish(plan, judge_videos(scores), protocol_name(plan["data"]))


@rank_zero_only
def _report(
    results: list[Result], config: Mapping[str, Any], run_dir: Path, seconds: float
) -> None:
    title = f"{config['name']}, split {config['data']['split']}: video level"
    save_results(results, run_dir / "results.csv")
    show_results(results, title)
    print(f"{seconds:.0f} s in this call, peak memory {peak_memory_gib():.1f} GiB")
    print(f"checkpoints, scores and logs of every stage: {run_dir}/<stage>/")
    print(f"try: python -m src.evaluate ckpt_path={run_dir / results[-1].stage / 'last.ckpt'}")


def save_config(cfg: DictConfig, run_dir: Path) -> None:
    """Write the composed config beside the results."""
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
