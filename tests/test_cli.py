"""Commands as a user types them: a mistake is one line and a status, not a traceback."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from src import evaluate, extract_flow, fuse, predict, report, train, verify_data
from src.experiment.compose import CONF_DIR
from src.prediction.output import RankedClass, show_predictions
from src.training.pipeline import run_experiment
from src.utils.errors import UserError
from src.utils.mistakes import find_mistake
from tests.builders import CLIPS
from tests.conftest import compose_config

Main = Callable[[], None]


MISTAKES = [
    (train.main, ["experiment=nothing"], "nothing"),
    (train.main, ["trainer.foo=1"], "trainer.foo"),
    (train.main, ["data.split=2"], "split 1 only"),
    (train.main, ["experiment=st_resnet_hmdb51"], "HMDB51 is not here"),
    (train.main, ["experiment=st_resnet_ucf101"], "UCF101 is not here"),
    (train.main, ["model.backbone.depth=51"], "depth=51"),
    (train.main, ["model.net.connection.kind=both"], "connection.kind=both: choose from none"),
    (train.main, ["run_stages=finale"], "run_stages=finale"),
    (train.main, ["run_stages=joint"], "starts from stage appearance"),
    (train.main, ["stages.joint_pooled.data.frames=3"], "shorter than the temporal pool"),
    (
        train.main,
        ["stages.appearance.effective_batch_size=33"],
        "stages.appearance.effective_batch_size=33",
    ),
    (train.main, ["stages.joint.epochs=3"], "stages.joint.epochs"),
    (train.main, ["data.flow_stack=7"], "data.flow_stack=7"),
    (train.main, ["data=5"], "data=... or trainer=... is not the name of a choice"),
    (train.main, ["data.loader.shuffle=1"], "data.loader.shuffle"),
    (train.main, ["+data.loader.shuffle=1"], "data.loader.shuffle: not among those"),
    (
        train.main,
        ["data.augment={_target_:torchvision.transforms.v2.RandomRotation,degrees:9}"],
        "data.augment=RandomRotation: moves pixels",
    ),
    (train.main, ["trainer.precision=17"], "17"),
    (train.main, ["trainer.accelerator=abacus"], "abacus"),
    (train.main, ["stages.motion.init_from=IMAGENET1K_V1"], "no weights ResNet26_Weights"),
    (train.main, ["stages.motion.init_from=gone.ckpt"], "gone.ckpt does not exist"),
    (train.main, ["stages=[finale]"], "finale"),
    (train.main, ["hydra.job.chdir=true"], "hydra.job.chdir=true: paths are relative"),
    (
        train.main,
        [f"paths.output_dir={__file__}/x"],
        "x/st_resnet_two_movers/split1_seed0: Not a dir",
    ),
    (evaluate.main, [], "ckpt_path is not given"),
    (evaluate.main, ["ckpt_path=epoch=3.ckpt"], "'ckpt_path=\"epoch=3.ckpt\"'"),
    (evaluate.main, ["ckpt_path=a,b.ckpt"], "'ckpt_path=\"a,b.ckpt\"', a list ckpt_path=[a,b"),
    (evaluate.main, ["my ckpt=3"], "my ckpt=3: not an argument"),
    (evaluate.main, ["ckpt_path=5"], "ckpt_path=5: needs a path"),
    (evaluate.main, ["ckpt_path=~/gone.ckpt"], f"{Path.home()}/gone.ckpt does not exist"),
    (evaluate.main, ["ckpt_path=gone.ckpt", "trainer.devices=abc"], "trainer.devices=abc: needs"),
    (fuse.main, ["inputs=[a=1.ckpt,b.ckpt]"], "'inputs=[\"a=1.ckpt\",b.ckpt]'"),
    (predict.main, ["ckpt_path=gone.ckpt", "input=x", "top_k=1.5"], "top_k=1.5: needs an int"),
    (predict.main, ["ckpt_path=gone.ckpt", "input=null"], "input=null: needs a name or a list"),
    (
        predict.main,
        ["ckpt_path=x", f"input={__file__}", "device=abc"],
        "device=abc: cannot be used",
    ),
    (report.main, ["runs=5"], "runs=5: needs a name or a list of names: write 'runs=\"5\"'"),
    (report.main, ["output=null"], "output=null: needs a path"),
    (evaluate.main, ["ckpt_path=gone.ckpt"], "gone.ckpt does not exist"),
    (evaluate.main, [f"ckpt_path={__file__}"], "cannot be read as a checkpoint"),
    (predict.main, ["ckpt_path=gone.ckpt", "input=gone"], "gone"),
    (extract_flow.main, ["input=gone", "output=nowhere"], "input gone does not exist"),
]

# Of the same kind, but found when the config is composed: their lines alone are looked at.
VALUES = [
    ("seed=-1", "seed=-1: needs an integer from 0 to 4294967295"),
    ("seed=4294967296", "seed=4294967296: needs an integer from 0 to"),
    ("seed=1.5", "seed=1.5: needs an integer"),
    ("seed=abc", "seed=abc: needs an integer"),
    ("num_sample_videos=-1", "num_sample_videos=-1: needs an integer from 0"),
    ("checkpoint_minutes=abc", "checkpoint_minutes=abc: needs minutes from 0"),
    ("resume=maybe", "resume=maybe: needs same or force"),
    ("run_stages=5", "run_stages=5: needs a name or a list of names"),
    ("paths.output_dir=null", "paths.output_dir=null: needs a path"),
    ("paths.run_dir=5", "paths.run_dir=5: needs a path: write 'paths.run_dir=\"5\"'"),
    ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5: needs an integer from 1"),
    ("trainer.max_epochs=abc", "trainer.max_epochs=abc: needs an integer"),
    ("trainer.max_epochs=0", "trainer.max_epochs=0: needs an integer from 1"),
    ("trainer.max_epochs=-1", "trainer.max_epochs=-1: needs an integer"),
    ("trainer.limit_test_batches=0", "trainer.limit_test_batches=0: needs an int"),
    ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0: needs an int"),
    ("trainer.limit_val_batches=abc", "trainer.limit_val_batches=abc: needs an int"),
    ("trainer.devices=abc", "trainer.devices=abc: needs a number from 1"),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0: needs an int"),
    ("trainer.benchmark=abc", "trainer.benchmark=abc: needs true or false"),
    ("data.flow_stack=10.0", "data.flow_stack=10.0: needs an even number"),
    ("data.loader.timeout=abc", "data.loader.timeout=abc: needs seconds from 0"),
    ("data.test.part=all", "data.test.part=all: needs test or val"),
    ("data.videos.missing=wrong", "missing=wrong: needs error or skip or count_as"),
    ("data.dataset.root=5", "data.dataset.root=5: needs a path"),
    ("data.hflip=abc", "data.hflip=abc: needs true or false"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("main", "arguments", "named"), MISTAKES)
def test_mistake_is_one_line(
    main: Main,
    arguments: list[str],
    named: str,
    call: Callable[..., int],
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [o for o in tiny if not arguments or "experiment=" not in arguments[0]]
    status = call(main, *(small if main is train.main else []), *arguments)
    error = capfd.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert status == 1
    assert len(lines) == 1
    assert named in lines[0]
    assert "Traceback" not in error


@pytest.fixture(scope="module")
def composed(tiny: tuple[str, ...]) -> DictConfig:
    return compose_config("train", *tiny)


@pytest.mark.parametrize(("override", "told"), VALUES)
def test_a_value_is_checked_before_anything_is_done(
    override: str, told: str, composed: DictConfig, tmp_path: Path
) -> None:
    cfg = composed.copy()
    cfg.paths.output_dir = str(tmp_path)
    (parsed,) = OverridesParser.create().parse_overrides([override])
    OmegaConf.update(cfg, parsed.key_or_group, parsed.value())
    with pytest.raises((UserError, HydraException)) as error:
        run_experiment(cfg)
    assert told in (find_mistake(error.value) or "")
    assert not any(tmp_path.iterdir())


# In a process of its own: this one has imported torch long ago.
WITHOUT_TORCH = """
import contextlib, importlib, io, sys
WAYS = {"no_key=1": 1, "--help": 0, "--cfg=job": 0}
for name in sys.argv[1:]:
    # Most have only to be imported and fail: what comes after it is the same piece for all.
    for argument, status in list(WAYS.items())[: None if name == "train" else 1]:
        sys.argv = [name, argument]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                importlib.import_module(f"src.{name}").main()
                ended = 0
            except SystemExit as stop:
                ended = stop.code
        heavy = {"torch", "lightning_fabric", "pytorch_lightning"} & sys.modules.keys()
        if ended != status or heavy:
            sys.exit(f"{name} {argument}: status {ended}, imports {heavy}")
"""


@pytest.mark.slow
def test_help_and_mistakes_in_composing_do_not_wait_for_torch() -> None:
    folder = CONF_DIR.parent / "src"
    names = [file.stem for file in folder.glob("*.py") if "\n    main()\n" in file.read_text()]
    assert {"train", "evaluate", "predict", "fuse", "report", "verify_data"} <= set(names)
    command = [sys.executable, "-c", WITHOUT_TORCH, *sorted(names)]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_verify_data_asks_for_the_dataset(
    call: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(verify_data.main) == 1
    assert "error: data is not given: add data=hmdb51" in capfd.readouterr().err


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a run's directory that not even root can write in."""
    folder = tmp_path / "read_only"
    (folder / "run").mkdir(parents=True)
    mount = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", ["run", "new"])
def test_a_folder_that_cannot_be_written_is_one_line(
    name: str,
    read_only: Path,
    tiny: tuple[str, ...],
    call: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert call(train.main, *tiny, f"paths.run_dir={read_only / name}") == 1
    error = capfd.readouterr().err
    assert f"{read_only}" in error
    assert "Read-only file system: give a path on another file system" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_an_unwritable_cache_is_done_without(
    read_only: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    call: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    cache = f"data.videos.cache_dir={read_only}"
    arguments = ("experiment=motion_two_movers", cache, f"paths.run_dir={tmp_path / 'run'}")
    assert call(train.main, *tiny, *arguments) == 0
    assert "the index of images cannot be kept" in "".join(capfd.readouterr())


@pytest.mark.slow
def test_jobs_of_a_sweep_have_a_directory_each_and_fail_alone(
    call: Callable[..., int],
    tiny: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["hydra.sweep.subdir=${hydra.job.num}", "experiment=appearance_two_movers"]
    assert call(train.main, "-m", *tiny, *short, "seed=1,-1,2") == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: job 1 of the sweep failed: seed=-1: needs an integer")
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert sweep.name.startswith("appearance_two_movers_")
    assert sorted(path.name for path in sweep.glob("[0-9]")) == ["0", "1", "2"]
    for job in ("0", "2"):
        assert (sweep / job / "appearance" / "stage.json").is_file()
    with (sweep / "sweep.csv").open(newline="") as table:
        states = {row["seed"]: row["state"] for row in csv.DictReader(table)}
    assert states["1"] == states["2"] == "done"
    assert states["-1"].startswith("failed: seed=-1: needs an integer")


def test_evaluate_repeats_the_stage_result(
    call: Callable[..., int],
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "scores.csv"
    checkpoint = finished_run / "joint_pooled" / "last.ckpt"
    assert call(evaluate.main, f"ckpt_path={checkpoint}", f"output={output}") == 0
    assert f"{checkpoint}: video level\n" in capsys.readouterr().out  # however long the path is
    with output.open() as ours, (finished_run / "joint_pooled" / "scores.csv").open() as theirs:
        rows, expected = list(csv.reader(ours)), list(csv.reader(theirs))
    assert rows[0] == expected[0] == ["video", "label", *rows[0][2:]]
    assert len(rows) == 9
    for row, other in zip(rows[1:], expected[1:], strict=True):
        assert row[:2] == other[:2]
        assert [float(x) for x in row[2:]] == pytest.approx([float(x) for x in other[2:]], abs=1e-5)


@pytest.mark.slow
def test_evaluate_refuses_another_split_other_flow_and_other_classes(
    call: Callable[..., int],
    finished_run: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = torch.load(finished_run / "motion" / "last.ckpt", weights_only=True)
    classes = ["circle_left", *content["experiment"]["class_names"][1:]]
    for change, word in (
        ({"split": 3}, "split 3"),
        ({"flow": {"algorithm": "tvl1"}}, "tvl1"),
        ({"class_names": classes}, "class 0 is circle_left there, and "),
    ):
        content["experiment"] |= change
        torch.save(content, tmp_path / "changed.ckpt")
        assert call(evaluate.main, f"ckpt_path={tmp_path / 'changed.ckpt'}") == 1
        assert word in capfd.readouterr().err
        content = torch.load(finished_run / "motion" / "last.ckpt", weights_only=True)


def test_checkpoint_that_asks_for_foreign_code_is_refused(
    call: Callable[..., int],
    finished_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = torch.load(finished_run / "motion" / "last.ckpt", weights_only=True)
    content["experiment"]["config"]["module"] = {
        "_target_": "os.system",
        "command": f"touch {tmp_path / 'harm'}",
    }
    torch.save(content, tmp_path / "hostile.ckpt")
    assert call(evaluate.main, f"ckpt_path={tmp_path / 'hostile.ckpt'}") == 1
    assert "os.system, which is not of this project" in capfd.readouterr().err
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("stage", ["appearance", "motion", "joint_pooled"])
def test_predict_repeats_the_test_scores(
    stage: str, call: Callable[..., int], finished_run: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    """Flow computed from a video's frames differs from the stored by JPEG's loss alone."""
    root = Path(tiny[-1].split("=")[1])
    video = sorted(root.glob("videos/*/*.mp4"))[-1]
    output = tmp_path / "predictions.json"
    checkpoint = f"ckpt_path={finished_run / stage / 'last.ckpt'}"
    assert call(predict.main, checkpoint, f"input={video}", f"output={output}", "top_k=8") == 0
    predictions = {row["label"]: row["probability"] for row in json.loads(output.read_text())}
    with (finished_run / stage / "scores.csv").open() as file:
        row = next((r for r in csv.DictReader(file) if r["video"] == video.stem), None)
    if row is None:
        pytest.fail(f"{video.stem} is not a test video")
    logits = torch.tensor([float(row[name]) for name in predictions])
    expected = dict(zip(predictions, logits.softmax(0).tolist(), strict=True))
    assert predictions == pytest.approx(expected, abs=0.02)
    assert list(predictions.values()) == sorted(predictions.values(), reverse=True)


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason="no real clips here")
def test_predict_on_real_clips_goes_on_past_a_broken_one(
    call: Callable[..., int],
    finished_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "predictions.csv"
    checkpoint = f"ckpt_path={finished_run / 'joint' / 'last.ckpt'}"
    assert call(predict.main, checkpoint, f"input={CLIPS}", f"output={output}", "top_k=2") == 1
    with output.open() as file:
        rows = list(csv.DictReader(file))
    clips = {Path(row["video"]).name for row in rows}
    assert {"test.avi", "nasa_13013.mp4", "part_0.mp4", "unordered.mov"} <= clips
    assert len(rows) == 2 * len(clips)
    failed = [line for line in capfd.readouterr().err.splitlines() if line.startswith("failed:")]
    assert all("corrupted.mp4" in line for line in failed)


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file or a class, whatever the brackets in it say to the terminal."""
    show_predictions([RankedClass("[/red].mp4", None, None, 1, "[link=x]run[/]", 0.5)])
    printed = capsys.readouterr().out
    assert "[/red].mp4" in printed
    assert "[link=x]run[/]" in printed
