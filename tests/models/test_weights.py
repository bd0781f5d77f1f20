import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn

from src.models.normalize import Normalize
from src.models.resnet import ResNet, appearance_stream, motion_stream
from src.models.temporal import TemporalFilters
from src.models.two_stream import TwoStreamResNet
from src.models.weights import (
    check_same_shapes,
    imagenet_normalization,
    imagenet_weights,
    load_weights,
    net_weights,
    of_part,
    read_checkpoint,
)
from src.utils.errors import UserError


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


def narrow(num_classes: int = 3, in_channels: int = 3, width: int = 4) -> ResNet:
    return ResNet(num_classes, in_channels, depth=26, width=width)


def joint(num_classes: int = 3, **options: Any) -> TwoStreamResNet:
    streams = appearance_stream(num_classes, 26, 4), motion_stream(num_classes, 2, 26, 4)
    return TwoStreamResNet(*streams, **options)


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not as before."""
    return [name for name, now in net.state_dict().items() if not torch.equal(now, before[name])]


KERNELS = {"average": (1, 1, 1), "identity": (0, 1, 0), "difference": (-1, 3, -1)}


@pytest.mark.parametrize("init", KERNELS)
@pytest.mark.parametrize(("part", "channels"), [("appearance", 3), ("motion", 4)])
def test_a_stream_becomes_part_of_a_joint_net(part: str, channels: int, init: str) -> None:
    net = joint(temporal_filters=TemporalFilters("inflated", init))
    stream = narrow(in_channels=channels)
    before, given = snapshot(net), stream.state_dict()
    report = load_weights(net.get_submodule(part), given, "a stream")
    grown = [f"layer{stage}.1.conv{conv}.weight" for stage in (1, 2, 3, 4) for conv in (1, 3)]
    assert report.inflated == grown
    assert report.new == report.left_over == []
    assert sorted(report.loaded + grown) == sorted(given)
    for name, tensor in net.get_submodule(part).state_dict().items():
        expected = given[name]
        if name in grown:
            kernel = KERNELS[init]
            expected = torch.stack([tap * given[name] for tap in kernel], 2) / sum(kernel)
        assert torch.equal(tensor, expected), name
    assert all(name.startswith(part) for name in changed(net, before))


def test_rgb_filters_are_averaged_for_flow() -> None:
    net, rgb = narrow(in_channels=20), narrow()
    assert load_weights(net, rgb.state_dict(), "rgb").inflated == ["conv1.weight"]
    assert net.conv1.weight.shape == (4, 20, 7, 7)
    for channel in net.conv1.weight.unbind(1):
        torch.testing.assert_close(channel, rgb.conv1.weight.mean(1))


def test_a_classifier_of_other_classes_starts_anew() -> None:
    net, other = joint(num_classes=3), joint(num_classes=5)
    classifiers = [name for name in net.state_dict() if ".fc." in name]
    before = snapshot(net)
    report = load_weights(net, other.state_dict(), "other classes")
    assert report.new == classifiers
    assert len(classifiers) == 4
    assert "4 newly initialized (appearance.fc.weight, " in str(report)
    assert not set(classifiers) & set(changed(net, before))
    assert torch.equal(net.motion.conv1.weight, other.motion.conv1.weight)


def without(ending: str) -> dict[str, Tensor]:
    weights = narrow().state_dict()
    return {name: tensor for name, tensor in weights.items() if not name.endswith(ending)}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda: without("layer4.1.bn3.weight"), "file.pt .* it has no layer4.1.bn3.weight"),
        (lambda: narrow(width=8).state_dict(), r"conv1.weight is \(8, 3, 7, 7\) there and \(4, "),
        (lambda: joint().motion.state_dict(), r"conv1.weight is \(4, 4, 7, 7\) there"),
        (lambda: joint().state_dict(), "it has no conv1.weight"),
    ],
    ids=["incomplete", "wider", "flow", "two streams"],
)
def test_what_does_not_fit_changes_nothing(
    weights: Callable[[], dict[str, Tensor]], message: str
) -> None:
    net = narrow()
    before = snapshot(net)
    with pytest.raises(UserError, match=message):
        load_weights(net, weights(), "file.pt")
    assert changed(net, before) == []


@pytest.mark.parametrize("init", ["identity", "difference"])
def test_st_mulnets_filters_start_anew_in_a_net_that_had_none(init: str) -> None:
    """A joint net without temporal filters continues as ST-MulNet."""
    net = joint(temporal_filters=TemporalFilters("inserted", init))
    before, given = snapshot(net), joint(temporal_filters=TemporalFilters("none")).state_dict()
    report = load_weights(net, given, "joint")
    assert report.new == [name for name in before if ".temporal." in name]
    assert len(report.new) == 2 * 4 * 2
    assert "16 newly initialized" in str(report)
    assert not set(report.new) & set(changed(net, before))
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in given.items())


def test_st_resnet_goes_on_as_st_mulnet() -> None:
    """Converted filters become 1x1 ones again, by what they do to a still clip."""
    net = joint(temporal_filters=TemporalFilters("inserted", "identity"))
    given = joint().state_dict()
    torch.nn.init.normal_(given["motion.layer3.1.conv3.weight"])
    report = load_weights(net, given, "joint")
    assert report.summed == [name for name, tensor in given.items() if tensor.ndim == 5]
    assert len(report.summed) == 16
    assert "16 summed over time (appearance.layer1.1.conv1.weight, " in str(report)
    assert all(".temporal." in name for name in report.new)
    for name in report.summed:
        torch.testing.assert_close(net.state_dict()[name], given[name].sum(2))


def test_st_mulnet_keeps_what_its_filters_have_learnt() -> None:
    net, other = (joint(temporal_filters=TemporalFilters("inserted")) for _ in range(2))
    torch.nn.init.normal_(other.motion.stages[2].block(1).temporal.weight)  # type: ignore[union-attr]
    load_weights(net, other.state_dict(), "earlier")
    assert changed(net, other.state_dict()) == []


@pytest.mark.parametrize("part", ["appearance", "motion"])
def test_a_part_out_of_a_joint_net(part: str) -> None:
    weights = joint().state_dict()
    chosen = of_part(weights, part)
    assert list(chosen) == [
        name.removeprefix(f"{part}.") for name in weights if name.startswith(part)
    ]
    net = joint()
    report = load_weights(net.get_submodule(part), chosen, "joint")
    assert len(report.loaded) == len(chosen)
    stream = narrow().state_dict()
    assert of_part(stream, part) == stream
    assert of_part(weights, "") == weights


@pytest.mark.parametrize(
    ("weights", "net", "message"),
    [
        (ResNet(3, depth=50, width=4), narrow(), "file.pt .* has no layer1.2.conv1.weight"),
        (
            joint(temporal_filters=TemporalFilters("inserted")),
            joint(temporal_filters=TemporalFilters("none")),
            "has no appearance.layer1.1.temporal.weight",
        ),
        (ResNet(3, depth=26, width=4, style="caffe"), narrow(), "has no conv1.bias"),
        (narrow(), ResNet(3, depth=26, width=4, style="caffe"), "it has no conv1.bias"),
    ],
    ids=["deeper", "temporal filters", "caffe", "not caffe"],
)
def test_another_network_is_no_match(weights: nn.Module, net: nn.Module, message: str) -> None:
    before = snapshot(net)
    with pytest.raises(UserError, match=message):
        load_weights(net, weights.state_dict(), "file.pt")
    assert changed(net, before) == []


def test_what_is_left_over_is_reported() -> None:
    weights = narrow().state_dict() | {"head.weight": torch.zeros(1)}
    report = load_weights(narrow(), weights, "file.pt")
    assert report.left_over == ["head.weight"]
    assert "1 not used (head.weight)" in str(report)


def test_batch_counters_may_be_missing() -> None:
    net, weights = narrow(), without("num_batches_tracked")
    report = load_weights(net, weights, "an old file")
    assert report.loaded == list(weights)
    assert not set(weights) & set(changed(net, net.state_dict() | weights))


DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"


def test_imagenet_weights_start_a_motion_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    imagenet, urls = torchvision.models.resnet50().state_dict(), []

    def download(url: str, **options: Any) -> dict[str, Tensor]:
        assert options["check_hash"]
        urls.append(url)
        return imagenet

    monkeypatch.setattr(DOWNLOAD, download)
    net = motion_stream(num_classes=7, flow_stack=10, depth=50, width=64)
    report = load_weights(net, imagenet_weights(net, "IMAGENET1K_V2"), "ImageNet")
    assert urls == [torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url]
    assert report.inflated == ["conv1.weight"]
    assert report.new == ["fc.weight", "fc.bias"]
    assert torch.equal(net.state_dict()["layer4.2.bn3.bias"], imagenet["layer4.2.bn3.bias"])


def test_normalization_of_imagenet_weights() -> None:
    """Theirs is our default, in 0..255; for flow they say nothing."""
    net = narrow()
    net.depth = 50
    known = imagenet_normalization(net, "IMAGENET1K_V1")
    ours = Normalize().describe()
    assert set(known) == {"rgb_mean", "rgb_std"}
    for key, value in known.items():
        assert value == pytest.approx(ours[key], abs=1e-3)
    assert imagenet_normalization(narrow(in_channels=20), "IMAGENET1K_V1") == {}


def test_unknown_imagenet_weights_are_refused() -> None:
    net = narrow()
    with pytest.raises(UserError, match=r"ResNet26_Weights.IMAGENET1K_V1: it has none"):
        imagenet_weights(net, "IMAGENET1K_V1")
    net.depth = 50
    with pytest.raises(UserError, match=r"IMAGENET1K_V9: it has IMAGENET1K_V1, IMAGENET1K_V2"):
        imagenet_weights(net, "IMAGENET1K_V9")


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise URLError("no\nroute")

    monkeypatch.setattr(DOWNLOAD, download)
    net = narrow()
    net.depth = 101
    with pytest.raises(UserError) as error:
        imagenet_weights(net, "IMAGENET1K_V1")
    message = str(error.value)
    assert "\n" not in message
    assert "no route" in message
    assert torchvision.models.ResNet101_Weights.IMAGENET1K_V1.url in message


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((4,), torch.nan), "bn1.weight has numbers that are not finite"),
        (torch.tensor([1, 2, torch.inf, 3]), "bn1.weight has numbers that are not finite"),
        (torch.ones(4, dtype=torch.complex64), "bn1.weight is complex64, not float32"),
        (torch.ones(4, dtype=torch.bool), "bn1.weight is bool, not float32"),
        (torch.ones(4, dtype=torch.int64), "bn1.weight is int64, not float32"),
        (torch.ones(4).to_sparse(), "bn1.weight is stored as sparse_coo"),
    ],
)
def test_weights_of_which_no_number_can_come(tensor: Tensor, message: str) -> None:
    net = narrow()
    before = snapshot(net)
    with pytest.raises(UserError, match=message):
        load_weights(net, narrow().state_dict() | {"bn1.weight": tensor}, "file.pt")
    assert changed(net, before) == []


def test_half_precision_is_no_mistake() -> None:
    half = {name: one.half() for name, one in narrow().state_dict().items() if one.ndim == 4}
    load_weights(narrow(), narrow().state_dict() | half, "file.pt")


def test_a_file_has_the_numbers_of_its_tensors() -> None:
    """A network of any size can be described in a few bytes, and one number stand for all."""
    weights = narrow().state_dict()
    with torch.device("meta"):
        net, huge = narrow(), narrow(num_classes=2_000_000_000)
    check_same_shapes(net, weights, "file.pt")
    with pytest.raises(UserError, match=r"fc.weight is \(3, 128\) there and \(2000000000, 128\)"):
        check_same_shapes(huge, weights, "file.pt")
    one = torch.zeros(())
    fake = {name: one.expand(tensor.shape) for name, tensor in huge.state_dict().items()}
    with pytest.raises(UserError, match=r"file.pt has fewer numbers than its tensors"):
        check_same_shapes(huge, fake, "file.pt")
    with pytest.raises(UserError, match=r"file.pt .* it has no fc.bias"):
        check_same_shapes(net, {n: w for n, w in weights.items() if n != "fc.bias"}, "file.pt")


def test_an_archive_is_not_larger_than_its_file(tmp_path: Path) -> None:
    file, small = tmp_path / "large.ckpt", tmp_path / "small.ckpt"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(10**7)}}, file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert small.stat().st_size < 10**6
    with pytest.raises(UserError, match=r"small.ckpt cannot be read .* claim 40,0\d\d,\d{3} bytes"):
        read_checkpoint(small)
    read_checkpoint(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(zipped: bool, tmp_path: Path) -> None:
    file, folder = tmp_path / "trap.ckpt", tmp_path / "sprung"
    torch.save({"state_dict": Trap(folder)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"trap.ckpt cannot be read as a checkpoint"):
        read_checkpoint(file)
    assert not folder.exists()
    torch.load(file, weights_only=False)
    assert folder.exists()  # it was a trap


def test_read_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    with pytest.raises(UserError, match=r"last.ckpt does not exist"):
        read_checkpoint(str(file))
    file.write_text("not a checkpoint")
    with pytest.raises(UserError, match=r"last.ckpt cannot be read as a checkpoint"):
        read_checkpoint(file)
    torch.save([torch.ones(2)], file)
    with pytest.raises(UserError, match=r"last.ckpt holds no state dict"):
        read_checkpoint(file)
    torch.save({"state_dict": {"net.fc.bias": torch.ones(2)}, "epoch": 3}, file)
    content = read_checkpoint(file)
    assert content["epoch"] == 3
    assert content["state_dict"]["net.fc.bias"].tolist() == [1, 1]


def test_net_weights() -> None:
    weights = {"conv1.weight": torch.ones(1), "net.odd": torch.ones(2)}
    assert net_weights(weights) == weights
    content = {f"net.{name}": tensor for name, tensor in weights.items()}
    noise = {"val_metrics.top1.tp": torch.zeros(1)}
    assert net_weights({"state_dict": content | noise, "epoch": 1}) == weights
