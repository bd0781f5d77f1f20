from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights, raft_small

from src.flow.algorithm import FlowAlgorithm
from src.flow.settings import FlowSettings
from src.utils.errors import UserError
from tests.builders import moving_texture

SMALL: dict[str, Any] = {"model": "small", "weights": None, "iterations": 2}


@pytest.fixture(scope="module")
def algorithm() -> FlowAlgorithm:
    torch.manual_seed(0)
    return FlowSettings("raft", SMALL).make()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of the small model."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "raft.pth"
    torch.save(raft_small(weights=None).state_dict(), file)
    return file


@pytest.mark.parametrize("size", [(128, 136), (64, 96), (130, 149)])
def test_any_size(algorithm: FlowAlgorithm, size: tuple[int, int]) -> None:
    frames = moving_texture((2.0, 0.0), frames=2, size=size)
    field = algorithm.fields(frames[:1], frames[1:])
    assert field.shape == (1, *size, 2)
    assert field.dtype == np.float32
    assert np.isfinite(field).all()


def test_padding_is_cut_off_where_it_was_put(algorithm: FlowAlgorithm) -> None:
    """Frames with their own border repeated have, inside, the flow of the frames."""
    frames = moving_texture((2.0, 0.0), frames=2, size=(130, 149))
    padded = np.pad(frames, [(0, 0), (3, 3), (1, 2), (0, 0)], mode="edge")  # (2, 136, 152, 3)
    expected = algorithm.fields(padded[:1], padded[1:])[:, 3:-3, 1:-2]
    np.testing.assert_allclose(algorithm.fields(frames[:1], frames[1:]), expected, atol=1e-4)


def test_is_torchvisions_with_its_preprocessing(weights: Path) -> None:
    net = raft_small(weights=None).eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    frames = moving_texture((2.0, 1.0), frames=2, size=(128, 136))
    frames = (frames * [1.0, 0.5, 0.2]).astype(np.uint8)  # not grey: their order matters
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (2, 3, H, W)
    pair = Raft_Small_Weights.DEFAULT.transforms()(images[:1], images[1:])
    with torch.no_grad():
        expected = net(*pair, num_flow_updates=3)[-1].permute(0, 2, 3, 1)  # (1, H, W, 2)
    ours = FlowSettings("raft", {"model": "small", "weights": str(weights), "iterations": 3}).make()
    assert ours.color
    field = ours.fields(frames[:1], frames[1:])
    np.testing.assert_allclose(field, expected.numpy(), atol=1e-3)


def test_more_updates_go_further(algorithm: FlowAlgorithm, weights: Path) -> None:
    frames = moving_texture((2.0, 0.0), frames=2)
    few, many = (
        FlowSettings("raft", SMALL | {"weights": str(weights), "iterations": count}).make()
        for count in (1, 4)
    )
    difference = few.fields(frames[:1], frames[1:]) - many.fields(frames[:1], frames[1:])
    assert np.abs(difference).max() > 1e-3


def test_defaults_name_weights_that_exist() -> None:
    parameters = FlowSettings("raft").parameters
    assert parameters == {"model": "large", "weights": "DEFAULT", "iterations": 12}
    assert parameters["weights"] in Raft_Large_Weights.__members__


def test_weights_by_name_are_torchvisions(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    asked = []

    def download(self: Raft_Small_Weights, **_: object) -> dict[str, Any]:
        asked.append(self)
        return torch.load(weights, weights_only=True)

    monkeypatch.setattr(Raft_Small_Weights, "get_state_dict", download)
    named = FlowSettings("raft", {**SMALL, "weights": "C_T_V2"}).make()
    assert asked == [Raft_Small_Weights.C_T_V2]
    frames = moving_texture((2.0, 0.0), frames=2)
    from_file = FlowSettings("raft", {**SMALL, "weights": str(weights)}).make()
    np.testing.assert_array_equal(
        named.fields(frames[:1], frames[1:]), from_file.fields(frames[:1], frames[1:])
    )


@pytest.mark.parametrize(
    "reason",
    [URLError("no route to host"), RuntimeError("invalid hash value"), IncompleteRead(b"")],
    ids=["no network", "another file", "broken off"],
)
def test_a_download_that_fails(monkeypatch: pytest.MonkeyPatch, reason: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise reason

    monkeypatch.setattr(Raft_Small_Weights, "get_state_dict", fail)
    with pytest.raises(UserError, match=r"C_T_V2 cannot be downloaded.*path of a file"):
        FlowSettings("raft", {**SMALL, "weights": "C_T_V2"}).make()


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"model": "huge"}, "large, small"),
        ({"iterations": 0}, "iterations=0"),
        ({"iterations": 2.5}, "iterations=2.5"),
        ({"weights": "C_T_SKHT_V2"}, "no weights 'C_T_SKHT_V2'.*C_T_V1"),  # the large model's
        ({"weights": "absent.pth"}, "no weights 'absent.pth'.*path of a file"),
        ({"no_such": 3}, "no_such"),
    ],
)
def test_wrong_parameters_name_the_thing(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        FlowSettings("raft", SMALL | parameters).make()


def test_weights_that_do_not_fit(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raft.pth do not fit model=large.*names differ"):
        FlowSettings("raft", {"weights": str(weights)}).make()
    state = torch.load(weights, weights_only=True)
    for name, content, named in (
        ("other", {"fc.weight": torch.zeros(1)}, "such as"),
        ("list", [1, 2], "do not fit"),
        ("shape", {key: value[..., :1] for key, value in state.items()}, "do not fit"),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=named) as caught:
            FlowSettings("raft", {**SMALL, "weights": str(tmp_path / f"{name}.pth")}).make()
        assert "\n" not in str(caught.value)
    for garbage in (b"no weights" * 100, b"\x80\x02h\x07."):
        (tmp_path / "garbage.pth").write_bytes(garbage)
        with pytest.raises(UserError, match=r"garbage.pth cannot be read"):
            FlowSettings("raft", {**SMALL, "weights": str(tmp_path / "garbage.pth")}).make()
