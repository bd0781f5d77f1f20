"""The step that stopped a run, once more: `python -m src.train experiment=... debug=replay`.

All of it comes out of the file that the run has left, see `src.training.failed_step`. The numbers
are the same again on the kind of device that the run was on, but for what processes of a group have
in common (`trainer.sync_batchnorm`).
"""

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning_fabric.utilities import move_data_to_device
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from src.errors import UserError
from src.models.modules import VideoClassifier
from src.text import visible
from src.training.failed_step import FailedStep, set_random_state
from src.training.health import gradient_norms, not_finite
from src.training.plan import resolve
from src.training.run_dir import stage_dirs

LATEST = "latest"
SOURCES = Path(__file__).resolve().parent.parent


def replay(cfg: DictConfig) -> float:
    """Run a failed step again and print where it fails: which video, module, operation.

    Args:
        cfg: the composed config: `replay`, and the accelerator of `trainer`.

    Returns:
        The loss.

    Raises:
        UserError: there is no such step.
    """
    path = find(cfg)
    step, module, description = FailedStep.read(path)
    trainer = instantiate(
        cfg.trainer,
        precision=description.plan["precision"],
        devices=1,
        num_nodes=1,
        strategy="auto",
        logger=False,
        enable_checkpointing=False,
        _convert_="all",
    )
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    module = precision.convert_module(module.to(device)).train()
    batch = move_data_to_device(step.batch, device)
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus), torch.autograd.set_detect_anomaly(True):
        set_random_state(step.random, device)
        with watched(module.net) as largest, precision.train_step_context():
            logits, target = module.training_logits(precision.convert_input(batch))
            losses = module.loss(logits, target, module.label_smoothing)
            videos = _loss_of_videos(module, logits, target, step.batch["video"])
        loss = torch.stack(list(losses.values())).sum()
        anomaly = backward(loss * step.loss_scale)

    console = Console()

    def say(title: str, text: str) -> None:
        console.print(visible(f"{title}: {text}"), markup=False, highlight=False, soft_wrap=True)

    say(step.where, step.found)
    now = {stream: float(own.detach()) for stream, own in losses.items()}
    console.print(_table("loss", videos | {"all": now, "all, in the run": step.losses}))
    console.print(_table("largest activation", _by_part(largest, list(losses))))
    weights = not_finite(dict(module.net.named_parameters()))
    first = next((name for name, value in largest.items() if not isfinite(value)), None)
    say("weights that are not finite before the step", ", ".join(weights) or "none")
    say("first module whose output is not finite", first or "none")
    say("first operation with a gradient that is not a number", anomaly or "none")
    if anomaly is None:
        for name, norm in gradient_norms(module.net, losses).items():
            say(name, f"{float(norm) / step.loss_scale:.6g}")
    return float(loss.detach())


def find(cfg: DictConfig) -> Path:
    """The file to replay: the one that `replay` names, or the newest of the run's stages."""
    if cfg.replay != LATEST:
        return Path(str(cfg.replay))
    config = resolve(cfg)
    files = [stage.failed_step for stage in stage_dirs(config).values()]
    files = [file for file in files if file.is_file()]
    if not files:
        raise UserError(
            f"no stage in {config['paths']['run_dir']} was stopped by a failed step: give the "
            "overrides of the run, or replay=<stage>/failed_step.ckpt"
        )
    return max(files, key=lambda file: file.stat().st_mtime)


@contextlib.contextmanager
def watched(net: nn.Module) -> Iterator[dict[str, float]]:
    """The largest absolute value that comes out of each module, in the order in which they end."""
    largest: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor):
                largest[name] = float(output.detach().abs().max())  # nan if any is

        return module.register_forward_hook(look)

    hooks = [watch(name, module) for name, module in net.named_modules() if name]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def backward(loss: Tensor) -> str | None:
    """Run the backward pass; the first operation whose gradient is nan, and which line called it.

    torch looks for nan alone: gradients that are infinite show in their norms.
    """
    if not bool(torch.isfinite(loss)):
        return "the loss itself"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            loss.backward()
        except RuntimeError as error:
            calls = re.findall(r'File "(.+)", line (\d+)', "".join(str(w.message) for w in told))
            ours = [f" ({Path(f).name}:{n})" for f, n in calls if Path(f).is_relative_to(SOURCES)]
            return "".join([str(error).splitlines()[0], *ours[-1:]])
    return None


@torch.no_grad()
def _loss_of_videos(
    module: VideoClassifier, logits: Mapping[str, Tensor], target: Tensor, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The loss of each video by itself, in each stream."""
    rows = {}
    for index, name in enumerate(names):
        own = {stream: values[index : index + 1] for stream, values in logits.items()}
        losses = module.loss(own, target[index : index + 1], module.label_smoothing)
        rows[name] = {stream: float(loss) for stream, loss in losses.items()}
    return rows


def _by_part(largest: Mapping[str, float], streams: list[str]) -> dict[str, dict[str, float]]:
    """The largest value of each part of the streams: conv1, layer1, ..., fc."""
    parts: dict[str, dict[str, list[float]]] = {}
    for name, value in largest.items():
        stream, _, rest = name.partition(".") if len(streams) > 1 else (streams[0], "", name)
        if rest:
            parts.setdefault(rest.split(".")[0], {}).setdefault(stream, []).append(value)
    return {
        part: {stream: float(torch.tensor(values).max()) for stream, values in of_streams.items()}
        for part, of_streams in parts.items()
    }


def _table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """One row per name, one column per stream."""
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    streams = list(next(iter(rows.values())))
    for stream in streams:
        table.add_column(stream, justify="right")
    for name, values in rows.items():
        table.add_row(escape(visible(name)), *(f"{values[stream]:.6g}" for stream in streams))
    return table
