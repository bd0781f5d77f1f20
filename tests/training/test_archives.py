"""Training from archives as they are published for UCF101: no videos, no conversion."""

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.media.sources import Uint8
from src.training.pipeline import run_experiment
from tests.builders import moving_texture
from tests.conftest import compose_config

pytestmark = pytest.mark.slow

CLASSES = [f"Class{number:03d}" for number in range(1, 100)] + ["HandstandPushups", "YoYo"]
USED = ("Class001", "HandstandPushups", "YoYo")
FRAMES, SIZE = 14, (64, 80)


def write_images(archive: zipfile.ZipFile, folder: str, images: Uint8) -> None:
    for number, image in enumerate(images, start=1):
        content = cv2.imencode(".jpg", image)[1].tobytes()
        archive.writestr(f"{folder}/frame{number:06d}.jpg", content)


def cut(path: Path) -> None:
    """Replace an archive by three pieces, cut wherever it happens to be."""
    content = path.read_bytes()
    third = len(content) // 3
    for number, begin in enumerate((0, third, 2 * third), start=1):
        end = begin + third if number < 3 else len(content)
        path.with_name(f"{path.name}.{number:03d}").write_bytes(content[begin:end])
    path.unlink()


def publish(root: Path) -> None:
    """Lists that name two train videos and one test video of three classes, and the archives."""
    listed = [f"{name}/v_{name}_g{group:02d}_c01.avi" for group in (8, 9, 1) for name in USED]
    (root / "splits").mkdir(parents=True)
    (root / "splits/classInd.txt").write_text(
        "".join(f"{number} {name}\n" for number, name in enumerate(CLASSES, start=1))
    )
    train = [f"{video} {CLASSES.index(video.split('/')[0]) + 1}\n" for video in listed[:6]]
    (root / "splits/trainlist01.txt").write_text("".join(train))
    (root / "splits/testlist01.txt").write_text("".join(f"{video}\n" for video in listed[6:]))
    rgb, flow = root / "ucf101_jpegs_256.zip", root / "ucf101_tvl1_flow.zip"
    with zipfile.ZipFile(rgb, "w") as frames, zipfile.ZipFile(flow, "w") as fields:
        for number, video in enumerate(listed):
            name = Path(video).stem.replace("v_Handstand", "v_HandStand")
            texture = moving_texture((1 + number % 3, 0.5), FRAMES, SIZE)
            write_images(frames, f"jpegs_256/{name}", texture)
            for component in "uv":
                still = np.full((FRAMES - 1, *SIZE), 128 + 20 * (number % 3), np.uint8)
                write_images(fields, f"tvl1_flow/{component}/{name}", still)
    cut(rgb)
    cut(flow)


def test_published_archives_to_a_table(tmp_path: Path) -> None:
    root = tmp_path / "ucf101"
    publish(root)
    overrides = [
        "experiment=st_resnet_ucf101",
        "debug=steps",
        "logger=[csv,tensorboard]",
        "model/backbone=narrow26",
        "model.backbone.width=4",
        f"data.dataset.root={root}",
        "data.dataset.any_size=true",
        f"data.rgb={root}/ucf101_jpegs_256.zip.001",
        f"data.flow={root}/ucf101_tvl1_flow.zip.001",
        f"data.videos.cache_dir={tmp_path}/index",
        "data.short_side=64",
        "data.crop_size=56",
        "stages.motion.data.crop.sides=[64,56,48]",
        "data.loader.num_workers=0",
        "data.test.frames=5",
        f"paths.run_dir={tmp_path}/run",
    ]
    run_experiment(compose_config("train", *overrides))
    with (tmp_path / "run" / "results.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {"appearance", "motion", "late fusion of both", "joint", "joint_pooled"} <= set(rows)
    assert all(row["videos"] == "3" for row in rows.values())
    with (tmp_path / "run" / "joint" / "scores.csv").open() as file:
        _, *scores = list(csv.reader(file))
    assert {row[1] for row in scores} == set(USED)
    assert len(list((tmp_path / "index").glob("*.npy"))) == 2
    assert not (root / "videos").exists()
