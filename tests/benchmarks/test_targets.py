"""Every target runs, small, and compares what it says."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from src.benchmarks import fixtures as making
from src.benchmarks import readers, run
from src.benchmarks.fixtures import Fixtures, make_fixtures
from src.benchmarks.flow import flow
from src.benchmarks.harness import Measurement, Speed
from src.benchmarks.lists import make_list, memory_of_workers
from src.benchmarks.startup import first_batch, make_dataset
from src.data.stores import FlowFolders
from src.experiment.config import stage_config
from src.media.images import FlowImages, FrameImages, open_images
from src.media.video_file import VideoFile
from src.utils.errors import UserError
from tests.builders import frames_of
from tests.conftest import compose_config


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Fixtures:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "DRAWN", 40)
        return make_fixtures(tmp_path_factory.mktemp("fixtures"), None)


@pytest.mark.slow
def test_fixtures_are_the_same_in_all_forms(fixtures: Fixtures) -> None:
    (name, count), *_ = fixtures.frames.items()
    folders = FrameImages(open_images(fixtures.rgb), name)
    assert folders.num_frames == count
    expected = frames_of(folders, [0, 7, count - 1])
    for place in ("jpegs_256.zip", "rawframes"):
        other = FrameImages(open_images(fixtures.root / place), name)
        assert (frames_of(other, [0, 7, count - 1]) == expected).all()
    for place in ("flow", "flow.zip", "rawframes"):
        assert FlowImages(open_images(fixtures.root / place), name).num_fields == count - 1
    for kind in ("avi", "mp4"):
        video = VideoFile(fixtures.video(kind, name))
        assert video.num_frames == count
        difference = frames_of(video, [0, 7, count - 1]).astype(int) - expected
        assert np.abs(difference).mean() < 12  # noise that a codec leaves out; another frame: 30


def test_an_avi_has_a_single_key_frame(fixtures: Fixtures) -> None:
    import av

    for name in fixtures.frames:
        with av.open(str(fixtures.video("avi", name))) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        assert sum(packet.is_keyframe for packet in packets) == 1


@pytest.mark.slow
def test_loader_and_decode(fixtures: Fixtures) -> None:
    tables = [readers.loader(fixtures, 2, 1), *readers.decode(fixtures, 2, 1)]
    assert [table.title.split(":")[0] for table in tables] == ["loader", "decode", "decode"]
    names = {row.name for row in tables[0].rows}
    assert {"decode only", "ours, folders", "ours, zip"} <= names
    assert "ours, decoder=auto" in {row.name for row in tables[1].rows}
    assert all(row.rate > 0 for table in tables for row in table.rows)


def test_clips_are_whole_stacks_around_their_frames(fixtures: Fixtures) -> None:
    for clip in readers.choose_clips(fixtures, 6):
        fields = np.array(clip.fields).reshape(readers.FRAMES, readers.STACK)
        assert (fields[:, readers.STACK // 2] == clip.frames).all()
        assert (np.diff(fields) == 1).all()
        assert fields.min() >= 0
        assert fields.max() < fixtures.frames[clip.video] - 1


@pytest.mark.slow
def test_step_and_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = compose_config(
        "benchmark",
        "target=step",
        "rounds=1",
        "step.steps=1",
        "step.clips=2",
        "step.overrides=['experiment=st_resnet_two_movers','model.backbone.width=4']",
        "step.settings=[[],['trainer.precision=bf16-mixed','optimizer.fused=true']]",
        f"output={tmp_path / 'now.json'}",
    )
    tables = run.run_benchmarks(cfg)
    titles = [table.title.split(", ")[1] for table in tables]
    assert titles == ["as it is", "trainer.precision=bf16-mixed optimizer.fused=true"]
    for table in tables:
        names = [row.name for row in table.rows]
        assert names == ["a hand-written loop", "ours, through Lightning"]
    assert json.loads((tmp_path / "now.json").read_text())["measurements"][0]["rounds"] == 1
    assert "ours, through Lightning" in capsys.readouterr().out


@pytest.mark.slow
def test_a_setting_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table for the others; an error if there are none."""
    ended: list[str] = []

    def measured(*arguments: object) -> Measurement:
        ended.append(str(arguments[2]))
        if arguments[2] == "compile=default":
            raise torch.OutOfMemoryError("CUDA out of memory.\nMore about it")
        return Measurement(str(arguments[2]), "clips", 1, [Speed("a loop", 1, 1, 1, 1)])

    monkeypatch.setattr(run, "step", measured)
    settings = "step.settings=[['compile=default'],[]]"
    tables = run.run_benchmarks(compose_config("benchmark", "target=step", settings))
    assert ended == ["compile=default", "as it is"]
    assert [table.title for table in tables] == ["as it is"]
    assert "step: compile=default: skipped: CUDA out of memory.\n" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"none of step\.settings can be run here"):
        run.run_benchmarks(
            compose_config("benchmark", "target=step", "step.settings=[['compile=default']]")
        )


@pytest.mark.slow
def test_settings_of_gpus_are_of_the_whole_network() -> None:
    step = compose_config("benchmark", "target=step", "hardware=gpu").step
    for setting in step.settings:
        cfg = compose_config("train", *step.overrides, *setting)
        config = stage_config(cfg, step.stage)
        depth = config["model"][config["network"]]["appearance"]["depth"]
        assert (depth, config["data"]["crop_size"]) == (50, 224)
        assert set(cfg.logger) == set(compose_config("train", "logger=[csv,tensorboard]").logger)


def test_first_batch_of_linked_videos(fixtures: Fixtures, tmp_path: Path) -> None:
    """All videos are found."""
    root, videos = tmp_path / "ucf101", 202
    make_dataset(root, fixtures, videos)
    cfg = compose_config(
        "train",
        "experiment=st_resnet_ucf101",
        f"data.dataset.root={root}",
        "data.dataset.any_size=true",
        "data.loader.num_workers=0",
        "data.crop_size=32",
        "stages.joint.data.batch_size=1",
    )
    config = stage_config(cfg, "joint")
    data = first_batch(config)
    assert (len(data.videos.train), len(data.videos.test)) == (145, 57)
    assert isinstance(data.flow, FlowFolders)
    assert all(len(data.flow.index.videos(component)) == videos for component in "uv")


@pytest.mark.slow
def test_memory_of_the_workers_of_a_list(fixtures: Fixtures, tmp_path: Path) -> None:
    """All videos are found, and workers have less of their own than of what they share."""
    make_list(tmp_path / "list", fixtures, 250, 20)
    cfg = compose_config(
        "train",
        "experiment=appearance_folder",
        f"data.dataset.root={tmp_path / 'list'}",
        f"data.dataset.lists={tmp_path / 'list' / 'list.csv'}",
        f"data.videos.cache_dir={tmp_path / 'index'}",
        "data.loader.num_workers=2",
        "data.crop_size=32",
        "stages.appearance.data.batch_size=2",
    )
    assert cfg.data.num_classes == 20
    private = memory_of_workers(stage_config(cfg, "appearance"))
    shared = (
        int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    )
    assert 0 < private < shared


def test_no_such_target() -> None:
    with pytest.raises(UserError, match=r"target=speed: choose from loader, .*startup"):
        run.run_benchmarks(compose_config("benchmark", "target=speed"))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu"])
def test_flow(fixtures: Fixtures, device: str) -> None:
    """One pair, of all algorithms; our TV-L1 is told beside its distance from OpenCV's."""
    table = flow(fixtures, pairs=1, rounds=1, device=device, short_side=64)
    notes = {row.name: row.note for row in table.rows}
    assert float(notes["tvl1_torch"].split(" px")[0]) < 0.1
    assert {"tvl1", "dis", "raft", "JPEG files, u and v"} <= notes.keys()
