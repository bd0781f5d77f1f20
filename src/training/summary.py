"""The networks of an experiment in tables: `python -m src.train experiment=... debug=summary`.

Nothing is read, computed or written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from src.experiment.config import StageConfig
from src.models.cost import Cost, Place, costs
from src.training.checks import module_without_data

CONVENTION = """\
output: channels x time x height x width, of one clip.
GFLOP: of one clip, forwards; a product and a sum are 2; convolutions and
classifiers alone (connections and pools have no parameters and next to none)."""


def summarize(configs: Mapping[str, StageConfig], console: Console | None = None) -> None:
    """Print the network of every chosen stage, by stream and part, for the stage's own clips.

    Raises:
        UserError: a network does not take the clips.
    """
    console = console or Console()
    for name, config in configs.items():
        module, batch = module_without_data(config)
        net = module.net
        parts, temporal = costs(net, lambda m=module, b=batch: m.logits(b))  # type: ignore[misc]
        time, height, width = next(iter(batch.values())).shape[2:]
        title = f"{name}: {', '.join(batch)}, clips of {time} x {height} x {width}"
        console.print(_table(title, name, parts, temporal))
        for key in ("connection", "temporal_pool"):
            choice = getattr(net, key, None)
            if is_dataclass(choice) and not isinstance(choice, type):
                told = ", ".join(f"{k}={v}" for k, v in asdict(choice).items())
                console.print(f"{key}: {told}", markup=False, highlight=False, soft_wrap=True)
        console.print()
    console.print(CONVENTION, highlight=False)


def _table(title: str, stage: str, parts: dict[Place, Cost], temporal: dict[str, Cost]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for column in ("stream", "part", "output"):
        table.add_column(column, no_wrap=column == "output")
    for column in ("M parameters", "GFLOP"):
        table.add_column(column, justify="right", no_wrap=True)
    streams = list(dict.fromkeys(stream for stream, _ in parts))
    for stream in streams:
        own = {part: cost for (of, part), cost in parts.items() if of == stream}
        for number, (part, cost) in enumerate(own.items()):
            table.add_row("" if number else escape(stream or stage), escape(part), *_row(cost))
        if len(streams) > 1:
            table.add_row("", "all", *_row(_sum(own.values())), style="bold")
        if stream in temporal:
            table.add_row("", "of it temporal", *_row(temporal[stream]), style="dim")
        table.add_section()
    table.add_row("all", "", *_row(_sum(parts.values())), style="bold")
    return table


def _row(cost: Cost) -> tuple[str, str, str]:
    shape = cost.shape or ()
    # (B * T, C, ...) with one clip: time after channels, as in all clips
    shape = (shape[1], shape[0], *shape[2:]) if len(shape) > 1 else shape
    return " x ".join(map(str, shape)), f"{cost.parameters / 1e6:.3f}", f"{cost.flops / 1e9:.3f}"


def _sum(some: Iterable[Cost]) -> Cost:
    all_of_them = list(some)
    return Cost(sum(c.parameters for c in all_of_them), sum(c.flops for c in all_of_them))
