"""All stages of st_resnet_hmdb51 on real clips under official names, narrow and for a few steps."""

import csv
import itertools
import shutil
from pathlib import Path

import pytest

from src.extraction.extract import extract_flow
from src.flow.settings import FlowSettings
from src.media.find_videos import find_videos
from src.training.pipeline import run_experiment
from src.utils.errors import UserError
from tests.builders import CLIPS
from tests.conftest import compose_config

pytestmark = pytest.mark.slow

LISTS = CLIPS.parent / "hmdb51_splits"
# Names with #, (, & and ;, and classes whose names begin alike.
CLASSES = ("kick", "kick_ball", "sword_exercise", "wave")

pytestmark = pytest.mark.skipif(not LISTS.is_dir(), reason="no real clips and lists here")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official lists; two train videos and one test video of each of four classes, with flow."""
    root = tmp_path_factory.mktemp("hmdb51")
    shutil.copytree(LISTS, root / "splits")
    clips = itertools.cycle(["part_0.mp4", "test.avi", "demo_spatiotemporal_det.mp4"])
    for name in CLASSES:
        lines = (LISTS / f"{name}_test_split1.txt").read_text().splitlines()
        entries = [line.split() for line in lines if line.strip()]
        entries.sort(key=lambda entry: entry[0].isidentifier())  # odd names first
        train = [video for video, flag in entries if flag == "1"][:2]
        test = [video for video, flag in entries if flag == "2"][:1]
        (root / "videos" / name).mkdir(parents=True)
        for video in train + test:
            shutil.copyfile(CLIPS / next(clips), root / "videos" / name / video)
    settings = FlowSettings("dis", short_side=64)
    extraction = extract_flow(find_videos(root / "videos"), root / "tvl1_flow", settings, 2)
    assert not extraction.failed
    return root


def overrides(root: Path, run_dir: Path) -> list[str]:
    return [
        "experiment=st_resnet_hmdb51",
        "debug=steps",
        "logger=[csv,tensorboard]",
        "model/backbone=narrow26",
        "model.backbone.width=4",
        "data.videos.missing=skip",
        f"data.dataset.root={root}",
        "data.short_side=64",
        "data.crop_size=56",
        "stages.motion.data.crop.sides=[64,56,48]",
        "data.loader.num_workers=0",
        "data.test.frames=11",
        f"paths.run_dir={run_dir}",
    ]


def test_all_stages_run_to_a_table(root: Path, tmp_path: Path) -> None:
    run_experiment(compose_config("train", *overrides(root, tmp_path)))
    with (tmp_path / "results.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {"appearance", "motion", "late fusion of both", "joint", "joint_pooled"} <= set(rows)
    assert all(row["videos"] == "4" for row in rows.values())
    assert "flip" in rows["joint"]["protocol"]
    with (tmp_path / "joint" / "scores.csv").open() as file:
        header, *scores = list(csv.reader(file))
    assert len(header) == 2 + 51
    assert header[2:] == sorted(header[2:])
    assert {row[1] for row in scores} == set(CLASSES)


def test_missing_videos_are_an_error_unless_skipped(root: Path, tmp_path: Path) -> None:
    strict = [o for o in overrides(root, tmp_path) if "missing" not in o]
    with pytest.raises(UserError, match=r"\d+ of \d+ listed videos are missing.*missing=skip"):
        run_experiment(compose_config("train", *strict))


def test_broken_video_stops_with_its_name(root: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(root, tmp_path / "hmdb51"))
    for video in (copied / "videos" / "wave").iterdir():
        shutil.copyfile(CLIPS / "unordered.mov", video)  # its flow is of a longer video
    with pytest.raises(UserError, match=r"4 frames and \d+ flow fields.*extract its flow again"):
        run_experiment(
            compose_config(
                "train",
                *overrides(copied, tmp_path / "run"),
                "run_stages=joint",
                "stages.joint.init_from=null",
                "trainer.limit_train_batches=1.0",
            )
        )
