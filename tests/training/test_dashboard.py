import csv
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from src.evaluation.samples import load_samples
from src.evaluation.scores import VideoScores, video_accuracies
from src.experiment.compose import CONF_DIR
from src.training.loggers import Loggers, code_version
from src.training.pipeline import run_experiment
from src.training.wandb_run import StageRun
from src.utils.errors import UserError
from tests.conftest import compose_config
from tests.training.wandb_file import OfflineRun

STAGES = ("appearance", "motion", "joint")
KEYS = {  # what the dashboard shows of a joint stage
    *(
        f"{phase}/{level}/{name}{stream}"
        for phase, level in (("train", "clip"), ("val", "clip"), ("test", "video"))
        for name in ("top1", "top5", "mean_class")
        for stream in ("", "_appearance", "_motion")
    ),
    *(
        f"{phase}/loss{stream}"
        for phase in ("train", "val")
        for stream in ("", "_appearance", "_motion")
    ),
    "train/grad_norm",
    "train/grad_norm_appearance",
    "train/grad_norm_motion",
    "train/skipped_videos",
    "data/replaced_videos",
    "time/data",
    "time/step",
    "time/data_share",
    "throughput/clips_per_second",
    "memory/peak_gib",
    "test/both_classifiers/corrected_of_motion",
}


@pytest.fixture(scope="module")
def run_dir(tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stages with every logger."""
    folder = tmp_path_factory.mktemp("dashboard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        options = (
            "logger=[csv,tensorboard,wandb]",
            "skip_stages=[joint_pooled]",
            "num_sample_videos=5",
        )
        run_experiment(compose_config("train", *tiny, *options, f"paths.run_dir={folder}"))
    assert wandb.run is None
    return folder


def _wandb(run: OfflineRun) -> dict[str, float]:
    return {k: v[-1] for k, v in run.logged.items() if isinstance(v[-1], int | float)}


@pytest.mark.slow
def test_each_stage_is_a_closed_run_of_the_experiments_group(run_dir: Path) -> None:
    runs = {stage: OfflineRun(run_dir / stage) for stage in STAGES}
    for stage, run in runs.items():
        assert run.about.run_group == "st_resnet_two_movers"
        assert run.about.job_type == stage
        assert list(run.about.tags) == ["split1", "seed0"]
        assert run.exit_code == 0
        assert run.config["code"] == code_version()
        assert run.config["data"]["split"] == 1
        assert run.config["test/protocol"].startswith("11 full frames")
    assert len({run.about.run_id for run in runs.values()}) == len(STAGES)


def test_the_dashboard_has_every_number(run_dir: Path) -> None:
    logged = OfflineRun(run_dir / "joint").logged.keys()
    plain = {key.removesuffix("_epoch").removesuffix("_step") for key in logged}
    assert plain >= KEYS
    assert any(key.startswith("lr-") for key in logged)


@pytest.mark.parametrize("stage", STAGES)
def test_csv_and_tensorboard_have_the_same_numbers(run_dir: Path, stage: str) -> None:
    ours = _wandb(OfflineRun(run_dir / stage))
    (file,) = (run_dir / stage).glob("csv/*/metrics.csv")
    last = {}
    with file.open() as lines:
        for row in csv.DictReader(lines):
            last.update({key: float(value) for key, value in row.items() if value})
    tensorboard = EventAccumulator(str(run_dir / stage / "tensorboard")).Reload()
    shown = {k: tensorboard.Scalars(k)[-1].value for k in tensorboard.Tags()["scalars"]}
    names = {key for key in ours if key.startswith(("train/", "val/", "test/", "lr-", "time/"))}
    names = {key for key in names if not key.endswith(("/width", "/height", "/size"))}
    names -= {key for key in names if key.endswith(("/nrows", "/ncols"))}
    assert names
    for key in names:
        assert last[key] == pytest.approx(ours[key], rel=1e-6), key
        assert shown[key] == pytest.approx(ours[key], rel=1e-6), key


def test_tables_show_videos_confusions_and_what_fusion_changes(run_dir: Path) -> None:
    run = OfflineRun(run_dir / "joint")
    table = run.table("test/videos")
    assert table["columns"][:5] == ["video", "clip", "frames and flow", "label", "right"]
    assert [row[0] for row in table["data"]] == [
        sample.video for sample in load_samples(run_dir / "joint" / "samples")
    ]
    for row in table["data"]:
        assert row[1:3] == ["Video", "Image"]
        assert row[4] == (row[table["columns"].index("net")] == row[3])
    (shown,) = [one for name, one in run.artifacts.items() if "testvideos" in name]
    kinds = Counter(Path(file).suffix for file in shown["files"])
    assert kinds[".mp4"] == kinds[".jpg"] == len(table["data"]) == 5
    for name in ("confusion", "class_accuracy"):
        picture = run.files / run.logged[f"test/{name}/path"][-1]
        assert picture.stat().st_size > 5000
    scores = VideoScores.load(run_dir / "joint" / "scores.csv")
    bars = run.table("test/class_accuracy_bars_table")["data"]
    assert [row[0] for row in bars] == list(scores.classes)
    right = sum(accuracy * videos / 100 for _, accuracy, videos in bars)
    assert 100 * right / len(scores.videos) == pytest.approx(video_accuracies(scores).top1)
    wrong = sum(row[2] for row in run.table("test/hardest_confusions")["data"])
    assert wrong == len(scores.videos) - round(right)


def test_changes_by_fusion_add_up(run_dir: Path) -> None:
    for stage, fused, parts in (
        ("motion", "late_fusion", ("appearance", "motion")),
        ("joint", "both_classifiers", ("appearance", "motion")),
    ):
        run = OfflineRun(run_dir / stage)
        numbers, rows = _wandb(run), run.table(f"test/{fused}/changes")["data"]
        for part in parts:
            folder = run_dir / (part if stage == "motion" else stage)
            name = "scores.csv" if stage == "motion" else f"scores_{part}.csv"
            alone = video_accuracies(VideoScores.load(folder / name))
            whole = numbers.get(f"test/{fused}/top1", numbers["test/video/top1"])
            difference = numbers[f"test/{fused}/corrected_of_{part}"]
            difference -= numbers[f"test/{fused}/broken_of_{part}"]
            assert whole - alone.top1 / 100 == pytest.approx(difference / alone.videos)
            changed = [row[2] for row in rows if row[3] == part]
            assert changed.count("corrected") - changed.count("broken") == difference


def test_artifacts_are_the_checkpoint_its_config_and_the_scores(run_dir: Path) -> None:
    artifacts = OfflineRun(run_dir / "joint").artifacts
    model = artifacts["st_resnet_two_movers-joint-split1-seed0"]
    assert model["type"] == "model"
    assert set(model["files"]) == {"last.ckpt", "config.yaml"}
    assert model["metadata"]["protocol"].startswith("11 full frames")
    scores = artifacts["st_resnet_two_movers-joint-split1-seed0-scores"]
    expected = {"scores.csv", "scores_appearance.csv", "scores_motion.csv"}
    assert set(scores["files"]) == expected


@pytest.mark.slow
def test_a_run_is_closed_as_failed_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    loggers = Loggers(compose_config("train", "logger=wandb").logger)

    def opened(stage: str) -> AbstractContextManager[Sequence[Logger]]:
        (tmp_path / stage).mkdir(exist_ok=True)
        return loggers.of_stage(tmp_path / stage, {})

    with pytest.raises(UserError), opened("appearance"):
        raise UserError("a mistake")
    assert wandb.run is None
    with opened("motion"):
        pass
    first, second = OfflineRun(tmp_path / "appearance"), OfflineRun(tmp_path / "motion")
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.about.run_id != second.about.run_id
    # A stage that continues continues with its run.
    with opened("motion"):
        pass
    ids = {file.stem for file in (tmp_path / "motion" / "wandb").glob("offline-run-*/*.wandb")}
    assert ids == {f"run-{second.about.run_id}"}


def test_the_first_of_several_processes_names_the_run_of_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have loggers too, which log nothing."""

    def made_by(rank: int) -> StageRun:
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        return StageRun(str(tmp_path), "p", "e", "e", [], checkpoints=False)

    monkeypatch.setenv("WANDB_MODE", "offline")
    made_by(1)
    first = made_by(0)
    made_by(1)
    assert (tmp_path / "wandb_id").read_text() == first.version


def test_a_sweep_of_wandb_drives_the_entry_point(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As W&B's agent does it: each parameter drawn, filled into the command, and composed."""
    file = CONF_DIR.parent / "docs" / "wandb_sweep.yaml"
    sweep: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    kept = OfflineRun(run_dir / "joint").logged
    assert sweep["metric"]["name"] in kept
    drawn = {
        key: {"value": one["values"][-1] if "values" in one else one["max"]}
        for key, one in sweep["parameters"].items()
    }
    filled = create_sweep_command_args({"args": drawn})
    filled |= {"env": [], "interpreter": ["python"], "program": [sweep["program"]]}
    command = [
        part
        for one in sweep["command"]
        for part in (filled[one[2:-1]] if one.startswith("${") else [one])
    ]
    assert command[:3] == ["python", "-m", "src.train"]
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    config = compose_config("train", *command[3:])
    assert config["paths"]["run_dir"].endswith("abc123")
    rate = config["stages"]["joint"]["optimizer"]["lr"]
    assert rate == drawn["stages.joint.optimizer.lr"]["value"]
    assert config["stages"]["joint"]["data"]["frame_stride"] == [5, 15]
    assert config["model"]["net"]["dropout"] == 0.8
    assert StageRun(str(tmp_path), "p", "e", "e", [], checkpoints=False).version == "abc123"
