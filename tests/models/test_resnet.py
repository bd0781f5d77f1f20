import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import ResNet as TorchvisionResNet
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck

from src.models.resnet import ResNet, SpatialConv, TemporalConv, motion_stream
from tests.helpers import randomise


def torchvision_resnet26(num_classes: int) -> TorchvisionResNet:
    net = TorchvisionResNet(TorchvisionBottleneck, [2, 2, 2, 2], num_classes=num_classes)
    randomise(net)
    return net


def copy_of(reference: nn.Module, depth: int, num_classes: int) -> ResNet:
    net = ResNet(num_classes, depth=depth).double().eval()
    net.load_state_dict(reference.state_dict())
    return net


@torch.no_grad()
def test_is_torchvisions_resnet50() -> None:
    reference = resnet50(num_classes=7)
    randomise(reference)
    net = copy_of(reference, 50, num_classes=7)
    assert [(name, tensor.shape) for name, tensor in net.state_dict().items()] == [
        (name, tensor.shape) for name, tensor in reference.state_dict().items()
    ]
    image = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    assert_close(net(image.unsqueeze(2)), reference(image).unsqueeze(1))


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
    net = motion_stream(num_classes=5, stack=2, depth=26, width=4)
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
    with pytest.raises(ValueError, match=r"depth 34 .* choose from 26, 50, 101, 152"):
        ResNet(5, depth=34)


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
def test_inflated_filter_averages_neighbours_and_zeros_beyond_the_ends(bias: bool) -> None:
    spatial = SpatialConv(6, 4, 1, bias=bias).double()
    temporal = TemporalConv.from_spatial(spatial).double()
    frames = torch.randn(5, 6, 3, 3, dtype=torch.float64)
    one = F.conv2d(frames, spatial.weight)
    nothing = torch.zeros_like(one[:1])
    before, after = torch.cat([nothing, one[:-1]]), torch.cat([one[1:], nothing])
    expected = (before + one + after) / 3
    if spatial.bias is not None:
        expected += spatial.bias[:, None, None]
    # a temporal filter is made in float32
    assert_close(temporal(frames, frames=5), expected, rtol=1e-6, atol=1e-6)
