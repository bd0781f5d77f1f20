"""Parameters by stream and part."""

from src.models.cost import count_parameters
from src.models.resnet import appearance_stream, motion_stream
from src.models.two_stream import TwoStreamResNet


def test_every_parameter_is_counted_once() -> None:
    net = TwoStreamResNet(appearance_stream(3, 26, 4), motion_stream(3, 2, 26, 4))
    counts = count_parameters(net)
    assert sum(counts.values()) == sum(each.numel() for each in net.parameters())
    assert counts["appearance", "fc"] == 3 * 128 + 3
    assert counts["appearance", "stem"] == 4 * 3 * 49 + 8
    assert counts["motion", "stem"] == 4 * 4 * 49 + 8
    assert [part for stream, part in counts if stream == "motion"] == [
        "stem",
        *(f"layer{stage}" for stage in (1, 2, 3, 4)),
        "fc",
    ]
    assert count_parameters(net.motion)["", "fc"] == counts["motion", "fc"]
