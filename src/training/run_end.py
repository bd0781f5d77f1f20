"""What a run says at its end: its results, where everything is, and what can be done with it."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from src.data.faults import Faults
from src.evaluation.scores import Accuracy
from src.evaluation.table import Result, save_results, show_results
from src.experiment.config import StageConfig
from src.experiment.run_dir import StageDir
from src.models.temporal import STREAMS
from src.training.late_fusion import LATE_FUSION, late_fusion_dir
from src.utils.commands import shown_command
from src.utils.processes import peak_memory_gib

WIDTH = 80  # of text; paths are never broken
_BESIDE = {
    "logs": ("csv", "tensorboard"),
    "W&B": ("wandb",),
    "pictures": ("samples",),
    "unreadable": ("unreadable.txt",),
}


def results_of_run(stages: Mapping[str, StageDir]) -> list[Result]:
    """Results of all finished stages in order, with late fusion after the two streams.

    A joint net's two classifiers are also shown apart, before the two together.
    """
    in_order = list(stages.items())
    if late_fusion := late_fusion_dir(stages):
        second = max(list(stages).index(stream) for stream in STREAMS)
        in_order.insert(second + 1, (LATE_FUSION, late_fusion))
    results: list[Result] = []
    for stage, stage_dir in in_order:
        record = stage_dir.finished()
        if record is None:
            continue
        protocol = record["protocol"]
        for stream, accuracy in record["streams"].items():
            name = f"{stage}: {stream} classifier"
            results.append(Result(name, stage, Accuracy(**accuracy), protocol))
        name = "late fusion of both" if stage == LATE_FUSION else stage
        faults = tuple(Faults(**about) for about in record["faults"])
        results.append(Result(name, stage, Accuracy(**record["accuracy"]), protocol, faults))
    return results


@rank_zero_only
def end_run(
    results: list[Result], config: StageConfig, stages: Mapping[str, StageDir], seconds: float
) -> None:
    """Save the table of results, and print it with the run's files and the next commands.

    The last result is what the run was for; the config is that of any of its stages.
    """
    run_dir = Path(config["paths"]["run_dir"])
    table = run_dir / "results.csv"
    save_results(results, table)
    if not config["summary"]:
        return
    show_results(results, f"{config['name']}, split {config['data']['split']}: video level")
    last = results[-1]
    shown = list(STREAMS) if last.stage == LATE_FUSION else [last.stage]
    others = {name: s for name, s in stages.items() if name not in shown and s.finished()}
    if (late_fusion := late_fusion_dir(stages)) and late_fusion.finished():
        others[LATE_FUSION] = late_fusion
    lines = [
        *textwrap.wrap(config["notes"] or "", WIDTH),
        f"{seconds:.0f} s in this call, peak memory {peak_memory_gib():.1f} GiB",
        "",
        "written:",
        *_files([stages[name] for name in shown], table, others),
        "",
        "next:",
        *_commands([stages[name].final for name in shown], run_dir),
    ]
    Console().print("\n".join(lines), soft_wrap=True, markup=False, highlight=False, emoji=False)


def _files(stages: Sequence[StageDir], table: Path, others: Mapping[str, StageDir]) -> list[str]:
    """Those of the stages that are shown, of the run, and the folders of its other stages.

    A line for each path, its title before the first of several.
    """
    files = {
        "checkpoint": [stage.final for stage in stages],
        "scores": [stage.scores() for stage in stages],
    }
    for title, names in _BESIDE.items():
        paths = [stage.path / name for stage in stages for name in names]
        files[title] = [path for path in paths if path.exists()]
    files["table"] = [table]
    files |= {f"stage {name}": [stage.path] for name, stage in others.items()}
    indent = max(map(len, files)) + 2
    return [
        f"  {'' if number else title:{indent}}{path}"
        for title, paths in files.items()
        for number, path in enumerate(paths)
    ]


def _commands(checkpoints: Sequence[Path], run_dir: Path) -> list[str]:
    """What to do next, to be copied."""
    last = ("ckpt_path", checkpoints[-1])
    if len(checkpoints) > 1:
        first = shown_command("fuse", ("inputs", checkpoints), "average_over=probabilities")
    else:
        first = shown_command("evaluate", last, "protocol=ten_crops")
    predict = shown_command("predict", last, "input=video.mp4")
    return [f"  {line}" for line in (first, predict, shown_command("report", ("runs", run_dir)))]
