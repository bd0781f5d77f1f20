import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import ResNet as TorchvisionResNet
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck

from src.models.resnet import Bottleneck, ResNet, appearance_stream, motion_stream
from src.models.temporal import TemporalFilters
from src.models.temporal_conv import SpatialConv, TemporalConv
from src.models.two_stream import TwoStreamResNet
from src.models.weights import load_weights
from tests.builders import randomise


def torchvision_resnet26(num_classes: int) -> TorchvisionResNet:
    net = TorchvisionResNet(TorchvisionBottleneck, [2, 2, 2, 2], num_classes=num_classes)
    randomise(net)
    return net


def copy_of(reference: nn.Module, depth: int, num_classes: int) -> ResNet:
    net = ResNet(num_classes, depth=depth).double().eval()
    net.load_state_dict(reference.state_dict())
    return net


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_is_torchvisions(depth: int) -> None:
    """Names, shapes, and, for the papers' depth at their size, logits; no tensor is a leftover."""
    with torch.device("cpu" if depth <= 50 else "meta"):
        reference, net = getattr(torchvision.models, f"resnet{depth}")(), ResNet(1000, depth=depth)
    assert [(name, tensor.shape) for name, tensor in net.state_dict().items()] == [
        (name, tensor.shape) for name, tensor in reference.state_dict().items()
    ]
    if depth > 50:
        return
    randomise(reference)
    net.double().eval()
    report = load_weights(net, reference.state_dict(), "torchvision")
    assert report.new == report.inflated == report.left_over == []
    assert len(report.loaded) == len(reference.state_dict())
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    assert_close(net(image.unsqueeze(2)), reference(image).unsqueeze(1), rtol=1e-5, atol=1e-5)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
@pytest.mark.parametrize("filters", ["none", "inflated", "inserted"])
def test_parameter_counts(model: str, filters: str) -> None:
    """Torchvision's, 17 channels more in conv1, and what the temporal filters add."""
    depth, stages = int(model.removeprefix("resnet")), (64, 128, 256, 512)
    basic = depth < 50
    if basic and filters == "inflated":
        pytest.skip("no 1x1 convolutions")
    with torch.device("meta"):
        theirs = getattr(torchvision.models, model)(num_classes=51)
        net = TwoStreamResNet(
            appearance_stream(51, depth),
            motion_stream(51, 10, depth),
            temporal_filters=TemporalFilters(filters),
        ).eval()  # the statistics of batch norm take half of the time
        rgb, flow = torch.empty(2, 3, 5, 224, 224), torch.empty(2, 20, 5, 224, 224)
        assert [x.shape for x in net(rgb, flow)] == [(2, 5, 51)] * 2
    added = {
        "none": 0,
        "inflated": sum(2 * (2 * w * 4 * w) for w in stages),  # two kernel more, twice
        "inserted": sum(3 * w * w + w for w in stages),
    }
    expected = 2 * parameters(theirs) + 17 * 64 * 7 * 7 + 2 * added[filters]
    count = parameters(net)
    print(f"{model}, {filters} temporal filters: {count:,} parameters")
    assert count == expected


@torch.no_grad()
def test_caffes_flavour_halves_resolution_before() -> None:
    """Output sizes of the pool and stages at an odd size, as Caffe's rounding gives them."""
    net = ResNet(5, depth=26, width=4, style="caffe").eval()
    assert net.state_dict().keys() - ResNet(5, depth=26, width=4).state_dict().keys() == {
        "conv1.bias"
    }
    clip = torch.randn(1, 3, 1, 229, 247)
    x = net.stem(clip)
    assert x.shape[-2:] == (57, 62)  # conv1 (115, 124); ceil((115 - 3) / 2) + 1, likewise 62
    block = net.stages[1].block(0)
    assert isinstance(block, Bottleneck)
    assert isinstance(block.downsample, nn.Sequential)
    assert [block.conv1.stride, block.conv2.stride, block.downsample[0].stride] == [
        (2, 2),
        (1, 1),
        (2, 2),
    ]


def test_mirrored_inflation_repeats_rgb() -> None:
    net = motion_stream(5, 10, 26, 4, conv1_inflation="mirrored")
    rgb = torch.arange(3.0).view(1, 3, 1, 1).expand(4, 3, 7, 7)
    order = net.conv1.inflate(rgb)[0, :, 0, 0].int().tolist()
    assert "".join("RGB"[i] for i in order) == "RGBBGRRGBBGRRGBBGRRG"
    with pytest.raises(ValueError, match="conv1_inflation=max: choose from mean, mirrored"):
        motion_stream(5, 10, 26, 4, conv1_inflation="max")


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (96, 64)])
def test_up_to_the_training_size_the_pool_is_global(size: tuple[int, int]) -> None:
    reference = torchvision_resnet26(5)
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    assert_close(copy_of(reference, 26, 5)(image.unsqueeze(2))[:, 0], reference(image))


@torch.no_grad()
def test_larger_images_are_read_fully_convolutionally() -> None:
    reference = torchvision_resnet26(5)
    image = torch.randn(1, 3, 256, 320, dtype=torch.float64)
    features = nn.Sequential(*list(reference.children())[:-2])(image)
    assert features.shape[-2:] == (8, 10)
    pooled = features.unfold(2, 7, 1).unfold(3, 7, 1).mean((-2, -1))  # (1, C, 2, 4) positions
    logits = F.conv2d(pooled, reference.fc.weight[:, :, None, None], reference.fc.bias)
    read = copy_of(reference, 26, 5)(image.unsqueeze(2))[:, 0]
    assert_close(read, logits.mean((-2, -1)))
    assert (read - reference(image)).abs().max() > 1e-3  # a global pool is something else


@torch.no_grad()
def test_a_clip_is_seen_frame_by_frame() -> None:
    net = motion_stream(num_classes=5, flow_stack=2, depth=26, width=4)
    randomise(net)
    clips = torch.randn(2, 4, 3, 64, 64, dtype=torch.float64)
    logits = net(clips)
    assert logits.shape == (2, 3, 5)
    for clip, frames in zip(clips, logits, strict=True):
        for t in range(3):
            assert_close(net(clip[None, :, t : t + 1])[0, 0], frames[t])


def test_new_classifier_is_small_and_unbiased() -> None:
    fc = ResNet(1000, depth=26, width=4).fc
    assert fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not fc.bias.any()


def test_unknown_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"depth=20: choose from 18, 26, 34, 50, 101, 152"):
        ResNet(5, depth=20)
    with pytest.raises(ValueError, match="style=keras: choose from torchvision, caffe"):
        ResNet(5, style="keras")


def as_frames(clip: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B * T, C, H, W)."""
    return clip.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_temporal_conv_computes_what_conv3d_does(frames: int) -> None:
    conv = TemporalConv(6, 4, bias=True).double()
    clip = torch.randn(2, 6, frames, 3, 5, dtype=torch.float64)
    assert_close(conv(as_frames(clip), frames), as_frames(nn.Conv3d.forward(conv, clip)))


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_inflated_filter_averages_neighbors_and_zeros_beyond_the_ends(bias: bool) -> None:
    spatial = SpatialConv(6, 4, 1, bias=bias).double()
    temporal = TemporalConv.inflated(spatial, "average").double()
    frames = torch.randn(5, 6, 3, 3, dtype=torch.float64)
    one = F.conv2d(frames, spatial.weight)
    nothing = torch.zeros_like(one[:1])
    before, after = torch.cat([nothing, one[:-1]]), torch.cat([one[1:], nothing])
    expected = (before + one + after) / 3
    if spatial.bias is not None:
        expected += spatial.bias[:, None, None]
    # a temporal filter is made in float32
    assert_close(temporal(frames, frames=5), expected, rtol=1e-6, atol=1e-6)
