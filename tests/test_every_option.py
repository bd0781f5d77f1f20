"""Every option of every config group runs: two steps of tiny networks on tiny data, and a test.

An option that is added has to be run here, or the reason told why no test can.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch

from src import benchmark, train
from src.data.two_movers import read_two_movers
from src.experiment.compose import CONF_DIR
from src.experiment.config import stage_names
from src.experiment.run_dir import stage_dirs
from src.training.pipeline import run_experiment
from tests.conftest import TINY, compose_config
from tests.test_configs import ALIKE
from tests.test_sweeps import SWEEPS, jobs_of

pytestmark = pytest.mark.slow

OPTIONS = sorted(
    path.relative_to(CONF_DIR).with_suffix("").as_posix()
    for path in CONF_DIR.glob("*/**/*.yaml")
    if not path.name.startswith("_")
)

# What is not specific to two_movers: the rest of TINY is about how it is made.
SMALL = (
    *(override for override in TINY if "dataset" not in override),
    "model.backbone.weights=null",
    "data.short_side=64",
    "data.crop_size=56",
    "data.test.frames=5",
    "data.test.batch_size=2",
    "num_sample_videos=0",
)
TWO_STEPS = (
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
)
DATA = {  # the first whose name an override ends with is the one that is used
    "folder": ("data.dataset.root=${paths.data_dir}/folder",),
    "hmdb51": ("data.dataset.any_size=true",),
    "ucf101": ("data.dataset.any_size=true",),
    "two_movers": tuple(override for override in TINY if "dataset" in override),
}

STREAM = ("experiment=appearance_two_movers",)
JOINT = ("experiment=st_multiplier_two_movers", "run_stages=joint", "stages.joint.init_from=null")
FLOW = (
    "experiment=motion_two_movers",
    "flow@data.flow_settings={}",
    "data.flow=on_the_fly",
    "data.flow_stack=2",
    "data.test.frames=1",
)
FEW_ITERATIONS = (
    "data.flow_settings.parameters.warps=1",
    "data.flow_settings.parameters.outerIterations=1",
)
# Each stage, and what makes it run alone.
STAGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("appearance", "appearance_hmdb51", "motion"), ()),
    **dict.fromkeys(("joint", "joint_multiplier"), ("stages.joint.init_from=null",)),
    "joint_pooled": ("stages.joint_pooled.init_from=null",),
}
INJECTED = "model.net.temporal_filters.kind=inserted"

# How the options of a group are run, or a single one; {} is its name.
RUN: dict[str, tuple[str, ...]] = {
    "callbacks": (*STREAM, "callbacks={}"),
    "data": ("experiment=two_stream_two_movers", "data={}"),
    "data/augment": (*JOINT, "data/augment={}"),
    "data/crop": (*JOINT, "data/crop={}"),
    "data/sampler": (*JOINT, "data/sampler={}"),
    "debug/steps": (*STREAM, "debug={}"),
    "experiment": ("experiment={}", "debug=steps", "model.backbone.depth=26"),
    # Their other stages have the configs of appearance_* and motion_*, which are run as well.
    **{
        f"experiment/{model}_{data}": (
            *("experiment={}", "debug=steps", "model.backbone.depth=26"),
            *("skip_stages=[appearance,motion]", "stages.joint.init_from=null"),
        )
        for model in ("st_resnet", "st_multiplier")
        for data in ("hmdb51", "two_movers")
    },
    "flow": FLOW,
    "flow/raft": (
        *FLOW,
        "data.flow_settings.parameters.model=small",
        "data.flow_settings.parameters.weights=null",  # no network here
        "data.flow_settings.parameters.iterations=1",
    ),
    "flow/tvl1": (*FLOW, *FEW_ITERATIONS),
    "flow/tvl1_torch": (*FLOW, *FEW_ITERATIONS),
    "logger": (*STREAM, "logger={}", "num_sample_videos=1"),
    "lr_scheduler": (*STREAM, "lr_scheduler@stages.appearance.lr_scheduler={}"),
    "lr_scheduler/multistep": (
        *STREAM,
        "lr_scheduler@stages.appearance.lr_scheduler={}",
        "+stages.appearance.milestones=[1]",
    ),
    "mixing": (*JOINT, "mixing={}"),
    "model": (*JOINT, "model={}"),
    "model/appearance": (*STREAM, "model={}"),
    "model/motion": ("experiment=motion_two_movers", "model={}"),
    # Not narrower: oneDNN 3.13 writes out of bounds in the backward pass of a strided 1x1
    # convolution of fewer than 8 channels, on processors with AVX2 alone.
    "model/backbone": (*JOINT, INJECTED, "model/backbone={}", "model.backbone.width=8"),
    "optimizer": (*STREAM, "optimizer={}", "stages.appearance.optimizer.lr=1e-3"),
    "paths": (*STREAM, "paths={}"),
    "protocol": (*JOINT, "protocol={}"),
    "recipe": (*STREAM, "recipe={}", "model/backbone=narrow26"),
    **{f"stages/{stage}": ("stages=[{}]", *alone) for stage, alone in STAGES.items()},
    **{
        f"stages/{stage}/{recipe}": (f"stages=[{stage}]", "recipe={}", *alone)
        for stage, alone in STAGES.items()
        for recipe in ("paper", "small")
        if f"stages/{stage}/{recipe}" in OPTIONS
    },
    "trainer/default": (*STREAM, "trainer={}"),
}
# Those that have a test of their own below, and those that no machine of the tests can run.
OWN_TEST = {
    *("debug/config", "debug/overfit", "debug/summary"),
    *("hardware/cpu", "hydra/sweeper/optuna"),
    *(option for option in OPTIONS if option.startswith("sweep/")),
}
COMPARED = {  # by test_configs.py, with what is run here
    *(f"experiment/{experiment}" for experiment in ALIKE),
    *("data/size/paper", "data/size/small"),
}
ELSEWHERE = {
    "hardware/gpu": ("needs a GPU", "benchmarks/test_targets.py"),
    "hydra/launcher/slurm": ("needs SLURM", "training/test_queue.py"),
    "hydra/launcher/local": ("starts processes", "training/test_local_sweep.py"),
    "trainer/ddp": ("starts processes", "training/test_launch.py"),
}


def group_of(option: str) -> str:
    return option.rpartition("/")[0]


@pytest.fixture(scope="session")
def data_dir(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every dataset in its own layout: links to the videos of two_movers, and to their flow."""
    folder, two_movers = tmp_path_factory.mktemp("datasets"), Path(tiny[-1].partition("=")[2])
    split = read_two_movers(str(two_movers), num_train=16, num_test=8, seed=0)
    for name in ("two_movers", "two_movers_seed0"):  # the latter is of sweep=claim
        (folder / name).symlink_to(two_movers)

    def link(flow: Path, number: int, file: Path) -> None:
        """Have one of the videos, and its flow, under another name."""
        video = split.train[number % len(split.train)]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(video.path)
        for component in "uv":
            (flow / component).mkdir(parents=True, exist_ok=True)
            (flow / component / file.stem).symlink_to(two_movers / "flow" / component / video.name)

    root = folder / "folder"
    for number in range(20):
        link(root / "flow", number, root / f"class_{number % 4}" / f"video_{number}.mp4")

    root = folder / "hmdb51"
    (root / "splits").mkdir(parents=True)
    for label in range(51):
        name = f"class_{label:02d}"
        files = [f"film_{name}_f_cm_np1_fr_goo_{flag}.avi" for flag in (1, 2)]
        for flag, file in enumerate(files, start=1):
            link(root / "tvl1_flow", 2 * label + flag, root / "videos" / name / file)
        lines = "".join(f"{file} {flag} \n" for flag, file in enumerate(files, start=1))
        (root / "splits" / f"{name}_test_split1.txt").write_text(lines)

    root = folder / "ucf101"
    (root / "splits").mkdir(parents=True)
    names = [f"Class{label:03d}" for label in range(101)]
    parts = {"test": "g01", "train": "g08"}
    for number, (part, group) in enumerate(parts.items()):
        files = [f"{name}/v_{name}_{group}_c01.avi" for name in names]
        for label, file in enumerate(files):
            link(root / "tvl1_flow", label + number, root / "videos" / file)
        labels = [f" {label}" if part == "train" else "" for label in range(1, 102)]
        lines = "".join(f"{file}{label}\n" for file, label in zip(files, labels, strict=True))
        (root / "splits" / f"{part}list01.txt").write_text(lines)
    classes = "".join(f"{label} {name}\n" for label, name in enumerate(names, start=1))
    (root / "splits" / "classInd.txt").write_text(classes)
    return folder


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def run(options: Sequence[str], data_dir: Path, *overrides: str) -> None:
    """Train and test all stages of an experiment for two steps, and look at what is left."""
    dataset = next((one for one in DATA if any(o.endswith(one) for o in overrides)), "two_movers")
    small = (*SMALL, *DATA[dataset], f"paths.data_dir={data_dir}")
    short = () if "debug=steps" in overrides else TWO_STEPS
    silent = () if "logger" in map(group_of, options) else ("logger=none",)
    # Those of the options last, as if they were typed.
    cfg = compose_config("train", *small, *short, *silent, *overrides)
    for stage in cfg.stages.values():
        stage.data.batch_size = stage.effective_batch_size = 4
    run_experiment(cfg)
    configs, dirs = [], stage_dirs(cfg)
    for stage in stage_names(cfg):
        record = json.loads(dirs[stage].record.read_text())
        assert record["accuracy"]["videos"]
        assert torch.load(dirs[stage].checkpoint, weights_only=True)["global_step"] == 2
        configs.append(json.dumps(record["config"]))
    for option in options:
        for target in re.findall(r"_target_: ([\w.]+)", (CONF_DIR / f"{option}.yaml").read_text()):
            assert any(f'"{target}"' in config for config in configs)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the project warned of, as of a logger that has failed."""
    return [
        one.getMessage()
        for one in caplog.records
        if one.name.startswith("src.") and one.levelno >= logging.WARNING
    ]


def way_of(option: str) -> tuple[str, ...]:
    """The overrides that an option is run with."""
    way = RUN.get(option, RUN.get(group_of(option)))
    assert way, f"conf/{option}.yaml: tell in this file how it is run"
    return tuple(override.replace("{}", option.rpartition("/")[2]) for override in way)


def options_run_together() -> list[list[str]]:
    """Options of different groups that are tried on the same network are tried in one run."""
    runs: list[list[str]] = []
    for option in OPTIONS:
        if option in OWN_TEST | COMPARED or option in ELSEWHERE:
            continue
        for begun in runs:
            if group_of(option) not in map(group_of, begun) and base_of(option) == base_of(
                begun[0]
            ):
                begun.append(option)
                break
        else:
            runs.append([option])
    return runs


def base_of(option: str) -> tuple[str, ...]:
    """What the options that can be tried in one run have in common."""
    way = way_of(option)
    shared = [base for base in (JOINT, STREAM) if way[: len(base)] == base]
    return shared[0] if shared and not any("debug=" in override for override in way) else way


@pytest.mark.parametrize("options", options_run_together(), ids="+".join)
def test_options(options: list[str], data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(options, data_dir, *dict.fromkeys(one for each in options for one in way_of(each)))
    assert not warnings(caplog)


@pytest.mark.parametrize("option", ELSEWHERE)
def test_what_cannot_be_run_here_is_tested_elsewhere(option: str) -> None:
    reason, test = ELSEWHERE[option]
    group, _, name = option.rpartition("/")
    assert f"{group}={name}" in (Path(__file__).parent / test).read_text(), reason


def test_no_entry_is_of_an_option_that_is_gone() -> None:
    assert {*RUN, *OWN_TEST, *COMPARED, *ELSEWHERE} <= {*OPTIONS, *map(group_of, OPTIONS)}


# Those that train streams once for all jobs do so in cross_stream; here the others go without.
ALONE = ("run_stages=joint", "stages.joint.init_from=null")
SWEPT = {
    "claim": ("experiment=st_resnet_two_movers",),
    "cross_stream": ("experiment=st_multiplier_two_movers",),
    "depth": ("experiment=st_multiplier_two_movers", "skip_stages=joint"),
    "splits": STREAM,
    "temporal_filters": ("experiment=st_resnet_two_movers", *ALONE),
    "temporal_pool": ("experiment=st_multiplier_two_movers", *ALONE),
}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_first_job_of_a_sweep(sweep: str, data_dir: Path) -> None:
    run([f"sweep/{sweep}"], data_dir, *SWEPT[sweep], f"sweep={sweep}", *jobs_of(sweep)[0])


@pytest.fixture
def command(data_dir: Path, call: Callable[..., int]) -> Callable[..., int]:
    """`python -m src.train` with small networks and data, and batches that make two steps."""
    data = (*DATA["two_movers"], f"paths.data_dir={data_dir}")
    return lambda *overrides: call(train.main, *SMALL, *data, *overrides)


def batches_of(size: int, *stages: str) -> list[str]:
    keys = ("data.batch_size", "effective_batch_size")
    return [f"stages.{stage}.{key}={size}" for stage in stages for key in keys]


def steps_of(folder: str) -> int:
    """Steps that a stage was trained for."""
    (checkpoint,) = Path("outputs").glob(f"{folder}/last.ckpt")
    steps: int = torch.load(checkpoint, weights_only=True)["global_step"]
    return steps


@pytest.mark.parametrize(
    "search",
    [
        ["sweep=search", *batches_of(4, "appearance", "motion", "joint")],
        [
            *(*STREAM, *batches_of(4, "appearance"), "data.val_fraction=0.2", "data.test.part=val"),
            *("hydra/sweeper=optuna", "stages.appearance.optimizer.lr=interval(1e-3,1e-2)"),
            "hydra.mode=MULTIRUN",
        ],
    ],
    ids=["sweep=search", "hydra/sweeper=optuna"],
)
def test_first_trial_of_a_search(search: list[str], command: Callable[..., int]) -> None:
    pytest.importorskip("optuna")
    assert command(*search, *TWO_STEPS, "logger=none", "hydra.sweeper.n_trials=1") == 0
    assert list(Path("outputs/sweeps").glob("*/optimization_results.yaml"))
    assert steps_of(f"sweeps/*/*/{'joint' if search[0] == 'sweep=search' else 'appearance'}") == 2


@pytest.mark.parametrize(
    ("debug", "printed"), [("config", "effective_batch_size: 20"), ("summary", "GFLOP")]
)
def test_debug_prints_every_stage_and_writes_nothing(
    debug: str, printed: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(f"debug={debug}") == 0
    output = capsys.readouterr().out
    assert printed in output
    assert all(stage in output for stage in ("appearance", "motion", "joint", "joint_pooled"))
    assert not any(Path().iterdir())


class Recorder(pl.Callback):
    """Keeps what each step is trained on, and its loss."""

    steps: ClassVar[list[tuple[list[str], torch.Tensor, float]]] = []

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, _: int
    ) -> None:
        self.steps.append((batch["video"], batch["rgb"], float(outputs["loss"])))


def test_debug_overfit_lowers_the_loss_on_the_same_clips(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every step of every epoch, which has as many steps as without."""
    monkeypatch.setattr(Recorder, "steps", [])
    epochs = ("trainer.max_epochs=6", *batches_of(4, "appearance"))
    recorder = f"+callbacks.recorder._target_={__name__}.Recorder"
    assert command(*STREAM, "debug=overfit", *epochs, recorder, "logger=none") == 0
    assert steps_of("debug_overfit/appearance_two_movers/*/appearance") == 24
    videos, clips, losses = zip(*Recorder.steps, strict=True)
    assert len(set(videos[0])) == 4
    assert all(names == videos[0] for names in videos)
    assert all(torch.equal(clip, clips[0]) for clip in clips)
    assert sum(losses[-4:]) / 4 < losses[0] / 3


def test_benchmark_of_a_step_on_a_cpu(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """hardware=cpu: each of its settings, which this machine must be able to run."""
    short = ("rounds=1", "step.steps=2", "step.clips=2", "step.stage=appearance")
    assert call(benchmark.main, "target=step", "hardware=cpu", *short) == 0
    output = capsys.readouterr().out
    for setting in compose_config("benchmark", "hardware=cpu").step.settings:
        assert (" ".join(setting) or "as it is") in output
    assert "left out" not in output
