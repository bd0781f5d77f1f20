"""The networks of an experiment in tables: `python -m src.train experiment=... debug=summary`.

Nothing is read, computed or written.
"""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass

from pytorch_lightning.utilities.model_summary.model_summary import ModelSummary
from rich.console import Console
from rich.table import Table

from src.experiment.config import StageConfig
from src.models.modules import VideoClassifier
from src.models.resnet import ResNet
from src.training.checks import module_without_data
from src.utils.console import table

CONVENTION = """\
output: of one clip, frames x channels x height x width.
GFLOP: of one clip, forwards; a product and a sum are 2; convolutions and
classifiers alone (connections and pools have no parameters and next to none)."""


def summarize(configs: Mapping[str, StageConfig], console: Console | None = None) -> None:
    """Print the network of every chosen stage, part by part, for the stage's own clips.

    Raises:
        UserError: a network does not take the clips.
    """
    console = console or Console()
    for name, config in configs.items():
        module, batch = module_without_data(config)
        time, height, width = next(iter(batch.values())).shape[2:]
        title = f"{name}: {', '.join(batch)}, clips of {time} x {height} x {width}"
        module.example_input_array = (batch,)
        module.forward = module.logits  # type: ignore[method-assign]
        console.print(_table(title, module))
        for key in ("connection", "temporal_pool"):
            choice = getattr(module.net, key, None)
            if is_dataclass(choice) and not isinstance(choice, type):
                text = f"{key}: {', '.join(f'{k}={v}' for k, v in asdict(choice).items())}"
                console.print(text, markup=False, highlight=False, soft_wrap=True)
        console.print()
    console.print(CONVENTION, highlight=False)


def _table(title: str, module: VideoClassifier) -> Table:
    summary = ModelSummary(module, max_depth=-1)
    parents = {name.rpartition(".")[0] for name in summary.layer_names}
    leaves = {  # parts of joined streams are called one by one: their parents do not count them
        f"{name}.": sum(counts.values())
        for name, counts in summary.flop_counts.items()
        if name not in parents
    }
    depth = 1 if isinstance(module.net, ResNet) else 2  # net.layer1, net.appearance.layer1
    parts = zip(summary.layer_names, summary.out_sizes, summary.param_nums, strict=True)
    rows = []
    for name, size, parameters in parts:
        flops = sum(count for leaf, count in leaves.items() if leaf.startswith(f"{name}."))
        if name.count(".") <= depth and (parameters or flops):
            output = " x ".join(map(str, size)) if isinstance(size, list) and "." in name else ""
            rows.append((name, output, f"{parameters / 1e6:.3f}", f"{flops / 1e9:.3f}"))
    columns = ("part", "output", "M parameters", "GFLOP")
    return table(columns, rows, title, left=("part", "output"))
