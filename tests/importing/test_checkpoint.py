"""What an imported checkpoint carries, and that the other commands take it."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from src import evaluate, import_matconvnet
from src.data.splits import HMDB51, UCF101, read_hmdb51, read_ucf101
from src.evaluation.evaluate import load_module
from src.importing.checkpoint import import_model, split_of
from src.utils.errors import UserError
from tests.builders import CLIPS, write_flow, write_video
from tests.importing.released_mat import Net, base_stream, joined

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run an entry point with arguments; its exit status and what it printed."""

    def run(main: Callable[[], None], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    return run


def pooled() -> Net:
    streams = base_stream(3, 26, seed=1), base_stream(20, 26, seed=2, dropout=True)
    return joined(*streams, "Sum", (4, 3))


@pytest.mark.slow
def test_description(tmp_path: Path) -> None:
    """All that the network needs comes from the file; the rest is the stage's own recipe."""
    path = pooled().save(tmp_path / "hmdb51ST-ResNet50-final-split=2.mat")
    import_model(path, None).save(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert {"state_dict", "epoch", "global_step", "pytorch-lightning_version"} <= content.keys()
    assert content["imported_from"] == path.name
    assert all(name.startswith("net.") for name in content["state_dict"])
    module, metadata = load_module(str(tmp_path / "a.ckpt"))
    config = metadata.config
    net = config["model"]["net"]
    assert (metadata.split, config["data"]["split"], config["stage"]) == (2, 2, "joint_pooled")
    assert metadata.class_names == list(HMDB51)
    assert net["connection"]["kind"] == "additive"
    assert net["temporal_filters"]["kind"] == "inflated"
    assert {k: net["temporal_pool"][k] for k in ("size", "stride", "kind")} == {
        "size": 4,
        "stride": 3,
        "kind": "max",
    }
    assert (config["optimizer"]["lr"], config["lr_scheduler"]["gamma"]) == (1e-4, 0.1)
    assert (config["max_epochs"], config["lr_scheduler"]["milestones"]) == (2, [1])
    assert metadata.flow is not None
    assert (metadata.flow["algorithm"], metadata.flow["bound"]) == ("tvl1", 20.0)
    image = pooled().average_image
    assert image is not None
    assert metadata.normalization["flow_mean"] == pytest.approx(image.flatten()[:20].tolist())
    assert metadata.normalization["rgb_mean"] == pytest.approx(image.flatten()[20:].tolist())
    assert metadata.normalization["rgb_std"] == [1, 1, 1]
    assert metadata.normalization["flow_std"] == 1
    flow = torch.full((1, 20, 1, 1, 1), 128, dtype=torch.uint8)
    assert module.normalize.flow(flow).flatten().tolist() == pytest.approx(
        (128 - image.flatten()[:20]).tolist(), abs=1e-4
    )


def test_flow_that_is_alike_in_all_channels_is_one_number(tmp_path: Path) -> None:
    net = base_stream(20, 26)
    net.average_image = np.full((1, 1, 20), 128.0)
    metadata = import_model(net.save(tmp_path / "net.mat"), 1).metadata
    assert metadata.normalization["flow_mean"] == 128
    assert metadata.config["stage"] == "motion"
    assert metadata.config["model"]["motion"]["dropout"] == 0.8


def test_classes_are_put_into_our_order(tmp_path: Path) -> None:
    """The released HMDB51 models have kick_ball before kick, and sword_exercise before sword."""
    net = base_stream(3, 26)
    net.params["fc1000_bias"] = np.arange(51, dtype=np.float32)[:, None]
    found = import_model(net.save(tmp_path / "net.mat"), 1)
    bias = found.weights["fc.bias"].tensor
    released = {name: int(bias[i]) for i, name in enumerate(found.metadata.class_names)}
    assert list(found.metadata.class_names) == sorted(found.metadata.class_names)
    assert (released["kick_ball"], released["kick"]) == (20, 21)
    assert (released["sword_exercise"], released["sword"]) == (44, 45)
    rest = {"kick", "kick_ball", "sword", "sword_exercise"}
    assert all(n == i for i, n in enumerate(released.values()) if HMDB51[i] not in rest)
    weight, filters = found.weights["fc.weight"].tensor, net.params["fc1000_filter"][0, 0]
    assert np.array_equal(weight[HMDB51.index("kick")].numpy(), filters[:, 21])
    net = base_stream(3, 26, classes=101)
    net.params["fc1000_bias"] = np.arange(101, dtype=np.float32)[:, None]
    found = import_model(net.save(tmp_path / "net.mat"), 1)
    assert found.weights["fc.bias"].tensor.tolist() == list(range(101))
    assert found.metadata.class_names == list(UCF101)


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason="no official lists here")
def test_class_names_are_those_of_the_lists() -> None:
    data = str(CLIPS.parent)
    assert read_hmdb51(data, 1, lists="hmdb51_splits").classes == HMDB51
    assert read_ucf101(data, 1, lists="ucf101_splits").classes == UCF101


def test_split_from_option_or_name() -> None:
    for name in ("hmdb51-img-resnet50-split2-dr0.mat", "ucf101-ST-ResNet50-split=2.mat"):
        assert split_of(name, None) == 2
        assert split_of(name, 2) == 2
        with pytest.raises(UserError, match="split=1, but the name"):
            split_of(name, 1)
    assert split_of("net.mat", 3) == 3
    for name in ("net.mat", "split=12.mat", "split1-split2.mat", "split.mat"):
        with pytest.raises(UserError, match=r"add split=1\|2\|3"):
            split_of(name, None)
    with pytest.raises(UserError, match="choose from 1, 2, 3"):
        split_of("net.mat", 4)


@pytest.mark.slow
def test_wrong_shapes_and_class_counts(tmp_path: Path) -> None:
    path = tmp_path / "split1.mat"
    with pytest.raises(UserError, match="tells 10 classes apart"):
        import_model(base_stream(3, 26, classes=10).save(path), None)
    for name, value, reason in (
        ("bn2a_branch2b_moments", np.ones((4, 1)), r"moments of shape \(4, 1\)"),
        ("bn2a_branch2b_mult", np.ones((5, 1)), r"bn2a_branch2b_mult would be layer1\.0\.bn2"),
        ("res4b_branch2b_filter", np.ones((3, 3, 32, 31)), r"res4b_branch2b_filter would be"),
    ):
        net = base_stream(3, 26)
        net.params[name] = value.astype(np.float32)
        with pytest.raises(UserError, match=reason):
            import_model(net.save(path), None)


def test_bias_before_a_batch_norm_moves_its_mean(tmp_path: Path) -> None:
    net = base_stream(3, 26)
    before = import_model(net.save(tmp_path / "split1.mat"), None).weights
    bias = np.arange(8, dtype=np.float32)[:, None]
    net.params["res3a_branch2a_bias"] = bias
    net.layer("res3a_branch2a").params.append("res3a_branch2a_bias")
    after = import_model(net.save(tmp_path / "split1.mat"), None).weights
    moved = before["layer2.0.bn1.running_mean"].tensor - after["layer2.0.bn1.running_mean"].tensor
    assert moved.tolist() == pytest.approx(bias.flatten().tolist(), abs=1e-5)


@pytest.mark.slow
def test_command_writes_a_checkpoint_that_evaluate_takes(call: Call, tmp_path: Path) -> None:
    """With the = of the released name, on a made-up HMDB51: of its 51 classes two have a video."""
    path = pooled().save(tmp_path / "hmdb51ST-ResNet50-final-split=1.mat")
    checkpoint, listing = tmp_path / "out" / "released.ckpt", tmp_path / "out" / "tensors.csv"
    status, said, error = call(
        import_matconvnet.main, f"input={path}", f"output={checkpoint}", f"listing={listing}"
    )
    assert (status, error) == (0, "")
    for words in (
        "st_resnet_hmdb51, split 1, stage joint_pooled: 51 classes",
        "motion: ResNet-26 over 20 channels",
        "connections: additive, motion to appearance, at conv2_x, conv3_x, conv4_x, conv5_x",
        "temporal filters: inflated, in appearance and motion",
        "temporal pool: max 4 / 3",
        f"all {len(pooled().params)} parameters",
    ):
        assert words in said
    with listing.open() as file:
        rows = {row["tensor"]: row for row in csv.DictReader(file)}
    assert rows["motion.layer2.1.conv3.weight"] == {
        "tensor": "motion.layer2.1.conv3.weight",
        "shape": "32x8x3x1x1",
        "source": "res3b_branch2c_filter_temporal",
    }

    root = made_up_hmdb51(tmp_path / "hmdb51")
    scores = tmp_path / "scores.csv"
    status, said, error = call(
        evaluate.main,
        f"ckpt_path={checkpoint}",
        f"output={scores}",
        f"+data.dataset.root={root}",
        "+data.dataset.any_size=true",
        f"+data.flow={root}/tvl1_flow",
        f"+data.videos.cache_dir={tmp_path / 'index'}",
        "+data.loader.num_workers=0",
        "+data.short_side=64",
        "+data.test.frames=8",
        "trainer.accelerator=cpu",
    )
    assert status == 0, error
    assert "8 full frames + flip at 64 px" in said.replace("\n", " ")
    with scores.open() as file:
        header, *lines = list(csv.reader(file))
    assert header == ["video", "label", *HMDB51]
    assert {line[1] for line in lines} == {"kick", "wave"}
    assert all(np.isfinite([float(value) for value in line[2:]]).all() for line in lines)
    other = [f"+data.dataset.root={root}", f"+data.flow={root}/tvl1_flow", "+data.split=2"]
    other += ["+data.dataset.any_size=true"]
    status, _, error = call(
        evaluate.main,
        f"ckpt_path={checkpoint}",
        *other,
        "+data.dataset.split=2",
        f"+data.videos.cache_dir={tmp_path / 'index'}",
        "trainer.accelerator=cpu",
    )
    assert status == 1
    assert "split 1" in error


def made_up_hmdb51(root: Path) -> Path:
    """Lists of all classes, of two splits; a test video with flow in two of them."""
    rng = np.random.default_rng(0)
    (root / "splits").mkdir(parents=True)
    for name in HMDB51:
        for split in (1, 2):
            there = name in ("kick", "wave")
            lines = f"{name}_video.avi 2 \n" if there else ""
            (root / "splits" / f"{name}_test_split{split}.txt").write_text(lines)
        if there:
            frames = rng.integers(0, 256, (24, 64, 80, 3), dtype=np.uint8)
            write_video(root / "videos" / name / f"{name}_video.avi", frames)
            fields = rng.integers(0, 256, (23, 64, 80, 2), dtype=np.uint8)
            write_flow(root / "tvl1_flow", f"{name}_video", fields)
    return root


@pytest.mark.slow
def test_mistakes_are_one_line(call: Call, tmp_path: Path) -> None:
    wrong = base_stream(3, 26)
    wrong.layers.remove(wrong.layer("res3b_relu"))
    for arguments, word in (
        ([], "is not given"),
        (["input=gone.mat", "output=x.ckpt"], "gone.mat does not exist"),
        ([f"input={__file__}", "output=x.ckpt"], "cannot be read as a MATLAB file"),
        ([f"input={wrong.save(tmp_path / 'a.mat')}", "output=x.ckpt"], "not one of the released"),
        ([f"input={base_stream(3, 26).save(tmp_path / 'b.mat')}", "output=x.ckpt"], "add split="),
        ([f"input={tmp_path / 'b.mat'}", "split=1", f"output={tmp_path}"], "is a folder"),
    ):
        status, _, error = call(import_matconvnet.main, *arguments)
        lines = error.splitlines()
        assert status == 1
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert word in lines[0]
    assert not Path("x.ckpt").exists()
