"""Every target runs, small, and compares what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from src.benchmarks import material as making
from src.benchmarks import readers, run
from src.benchmarks.first_batch import first_batches, make_dataset
from src.benchmarks.flops import training_flops, utilisation
from src.benchmarks.flow import algorithms
from src.benchmarks.harness import Measurement
from src.benchmarks.material import Material, make_material
from src.benchmarks.memory import memory
from src.benchmarks.network import LAYOUTS, as_conv3d
from src.data.images import FlowImages, FrameImages, open_images
from src.data.library import FlowFolders
from src.data.video_file import VideoFile
from src.errors import UserError
from src.experiment.build import build_datamodule
from src.experiment.config import stage_config
from src.models.resnet import appearance_stream, motion_stream
from src.models.temporal import TemporalFilters, TemporalPool
from src.models.two_stream import TwoStreamResNet
from src.training.speed import set_tf32
from tests.conftest import compose_config
from tests.helpers import frames_of, randomise


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "DRAWN", 40)
        return make_material(tmp_path_factory.mktemp("material"), None)


def test_material_is_the_same_in_all_forms(material: Material) -> None:
    (name, count), *_ = material.frames.items()
    folders = FrameImages(open_images(material.rgb), name)
    assert folders.num_frames == count
    expected = frames_of(folders, [0, 7, count - 1])
    for place in ("jpegs_256.zip", "pieces/jpegs_256.zip.001", "rawframes"):
        other = FrameImages(open_images(material.root / place), name)
        assert (frames_of(other, [0, 7, count - 1]) == expected).all()
    for place in ("flow", "flow.zip", "pieces/flow.zip.001", "rawframes"):
        assert FlowImages(open_images(material.root / place), name).num_fields == count - 1
    for kind in ("avi", "mp4"):
        video = VideoFile(material.video(kind, name))
        assert video.num_frames == count
        difference = frames_of(video, [0, 7, count - 1]).astype(int) - expected
        assert np.abs(difference).mean() < 12  # noise that a codec leaves out; another frame: 30


def test_an_avi_has_a_single_key_frame(material: Material) -> None:
    import av

    for name in material.frames:
        with av.open(str(material.video("avi", name))) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        assert sum(packet.is_keyframe for packet in packets) == 1


def test_loader_and_decode(material: Material) -> None:
    tables = [readers.loader(material, 2, 1), *readers.decode(material, 2, 1)]
    assert [table.title.split(":")[0] for table in tables] == ["loader", "decode", "decode"]
    names = {row.name for row in tables[0].rows}
    assert {"decode only", "ours, folders", "ours, zip", "ours, zip in 3 pieces"} <= names
    assert "ours, decoder=auto" in {row.name for row in tables[1].rows}
    assert all(row.rate > 0 for table in tables for row in table.rows)


def test_draws_are_whole_stacks_around_their_frames(material: Material) -> None:
    for draw in readers._draws(material, 6):
        fields = np.array(draw.fields).reshape(readers.FRAMES, readers.STACK)
        assert (fields[:, readers.STACK // 2] == draw.frames).all()
        assert (np.diff(fields) == 1).all()
        assert fields.min() >= 0
        assert fields.max() < material.frames[draw.video] - 1


def test_memory_prints_figures(
    material: Material, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this system does not tell")
    figures = memory(material, clips=48, workers=1)
    assert len(figures) >= 3
    assert all(0.05 < figure < 8 for figure in figures)
    assert "trend over the second half" in capsys.readouterr().out


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "compose", compose_config_of)
        tables = run.run_benchmarks(cfg)
    titles = [table.title.split(", ")[1] for table in tables]
    assert titles == ["as it is", "trainer.precision=bf16-mixed optimizer.fused=true"]
    for table in tables:
        assert table.baseline == "a hand-written loop"
        names = [row.name for row in table.rows]
        assert names[1:] == ["ours, through Lightning", "ResNet-26, 10 images a clip"]
        assert any("GFLOP a clip" in remark for remark in table.remarks)
    assert json.loads((tmp_path / "now.json").read_text())["measurements"][0]["rounds"] == 1
    assert "ours, through Lightning" in capsys.readouterr().out


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_of_resnet50(checkpointing: bool) -> None:
    """4.09 G products and sums for an image, as torchvision says, and twice that backwards."""
    with torch.device("meta"):
        net = appearance_stream(1000, checkpointing=checkpointing)
        flops = training_flops(net, [torch.empty(1, 3, 1, 224, 224)])
    of_pixels = 2 * 64 * 3 * 7**2 * 112**2  # nobody needs their gradient
    assert flops == pytest.approx(3 * 2 * 4.089e9 - of_pixels, rel=1e-3)


def test_utilisation_of_known_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what the device can do in the format that convolutions multiply in."""
    assert utilisation(2e12, torch.device("cpu"), "32-true") == "2 TFLOP/s"
    cases = (
        ("NVIDIA H200", "bf16-mixed", None, 494.5, ", 50.0 % of the device's bf16 peak (989)"),
        ("NVIDIA H200", "16-mixed", None, 494.5, ", 50.0 % of the device's bf16 peak (989)"),
        ("NVIDIA H200", "32-true", None, 247.5, ", 50.0 % of the device's tf32 peak (495)"),
        ("NVIDIA H200", "32-true", False, 33.5, ", 50.0 % of the device's fp32 peak (67)"),
        ("another", "bf16-mixed", None, 494.5, ""),
    )
    for device, precision, tf32, rate, told in cases:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, device=device: device)
        set_tf32(tf32)
        words = utilisation(rate * 1e12, torch.device("cuda"), precision)
        assert words == f"{rate} TFLOP/s{told}"
    set_tf32(None)


def test_a_setting_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table for the others; an error if there are none."""
    ended: list[str] = []

    def measured(*arguments: object) -> Measurement:
        ended.append(str(arguments[2]))
        if arguments[2] == "compile=default":
            raise torch.OutOfMemoryError("CUDA out of memory.\nMore about it")
        return Measurement(str(arguments[2]), "clips", "one", 1, [])

    monkeypatch.setattr(run, "compose", compose_config_of)
    monkeypatch.setattr(run, "step", measured)
    settings = "step.settings=[['compile=default'],[]]"
    tables = run.run_benchmarks(compose_config("benchmark", "target=step", settings))
    assert ended == ["compile=default", "as it is"]
    assert [table.title for table in tables] == ["as it is"]
    assert "step: compile=default: left out: CUDA out of memory.\n" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"none of step\.settings can be run here"):
        run.run_benchmarks(
            compose_config("benchmark", "target=step", "step.settings=[['compile=default']]")
        )


def test_settings_of_gpus_are_of_the_whole_network() -> None:
    step = compose_config("benchmark", "target=step", "hardware=gpu").step
    for setting in step.settings:
        cfg = compose_config("train", *step.overrides, *setting)
        config = stage_config(cfg, step.stage)
        depth = config["model"][config["network"]]["appearance"]["depth"]
        assert (depth, config["data"]["crop_size"]) == (50, 224)
        assert set(cfg.logger) == set(compose_config("train", "logger=[csv,tensorboard]").logger)


def compose_config_of(name: str, overrides: list[str]) -> object:
    return compose_config(name, *overrides)


@pytest.mark.parametrize("flavour", ["torchvision", "caffe"])
@pytest.mark.parametrize("kind", ["converted", "injected"])
def test_all_conv3d_computes_the_same(kind: str, flavour: str) -> None:
    """What is timed against ours is the same network: logits and gradients."""
    net = TwoStreamResNet(
        appearance_stream(3, 26, 4, flavour=flavour),
        motion_stream(3, 2, 26, 4, flavour=flavour),
        temporal_filters=TemporalFilters(kind),
        temporal_pool=TemporalPool(2, 1),
    )
    randomise(net)
    batch = torch.randn(2, 3, 4, 48, 48).double(), torch.randn(2, 4, 4, 48, 48).double()
    for layout in LAYOUTS.values():
        other = as_conv3d(net, layout)
        assert not any(isinstance(module, nn.Conv2d) for module in other.modules())
        assert_close(other(*batch), net(*batch))
        gradients = []
        for each in (net, other):
            each.zero_grad()
            torch.stack(each(*batch)).square().sum().backward()
            grads = [parameter.grad for parameter in each.parameters()]
            gradients.append([grad.flatten() for grad in grads if grad is not None])
        for one, two in zip(*gradients, strict=True):
            assert_close(one, two)


def test_network() -> None:
    cfg = compose_config(
        "benchmark",
        "target=network",
        "rounds=1",
        "network.overrides=['experiment=st_resnet_two_movers','model.backbone.width=4']",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "compose", compose_config_of)
        tables = run.run_benchmarks(cfg)
    assert [table.baseline for table in tables] == ["all Conv3d"] * 2
    assert all(row.rate > 0 for table in tables for row in table.rows)


def test_first_batch_of_linked_videos(material: Material, tmp_path: Path) -> None:
    """All videos are found."""
    root, videos = tmp_path / "ucf101", 202
    make_dataset(root, material, videos)
    cfg = compose_config(
        "train",
        "experiment=st_resnet_ucf101",
        f"data.dataset.root={root}",
        "data.loader.num_workers=0",
        "data.crop_size=32",
        "stages.joint.data.batch_size=1",
    )
    config = stage_config(cfg, "joint")
    table = first_batches(config, tmp_path / "index", videos, 1)
    assert [row.name for row in table.rows][1:] == ["index of folders kept"]
    assert table.remarks[0].startswith("seconds: folders listed ")
    data = build_datamodule(config)
    data.setup()
    assert (len(data.videos.train), len(data.videos.test)) == (145, 57)
    assert isinstance(data.flow, FlowFolders)
    assert all(len(data.flow.tree.videos(component)) == videos for component in "uv")


def test_no_such_target() -> None:
    with pytest.raises(UserError, match=r"target=speed: choose from loader, .*startup"):
        run.run_benchmarks(compose_config("benchmark", "target=speed"))


@pytest.mark.parametrize("device", ["cpu"])
def test_flow(material: Material, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair, of all algorithms; our TV-L1 is told beside its distance from OpenCV's."""
    table = algorithms(material, pairs=1, rounds=1, device=device, short_side=64)
    notes = {row.name: row.note for row in table.rows}
    assert float(notes["tvl1_torch"].split(" px")[0]) < 0.1
    assert {"tvl1", "dis", "farneback", "raft", "JPEG files, u and v"} <= notes.keys()
