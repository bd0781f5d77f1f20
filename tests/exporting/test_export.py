"""Exported networks against the checkpoints that they come from."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from src import __version__, export
from src.evaluation.evaluate import load_module
from src.exporting import network as exporting
from src.exporting.network import Clips, ClipShape, compare, export_checkpoint
from tests.builders import random_checkpoint

pytestmark = pytest.mark.slow

ort = pytest.importorskip("onnxruntime")
Call = Callable[..., int]


@dataclass(frozen=True)
class Exported:
    """Both files, and the logits that they should give."""

    folder: Path
    checkpoint: Path
    name: str

    def session(self) -> Any:
        path = self.folder / f"{self.name}.onnx"
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"])

    def expected(self, clips: dict[str, Tensor]) -> list[Tensor]:
        module, _ = load_module(str(self.checkpoint))
        with torch.inference_mode():
            return list(module.logits(clips).values())


# Stage, smallest number of frames, overrides.
NETWORKS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "joint_pooled": ("joint_pooled", 7, ()),
    "st_multiplier": (
        "joint",
        6,
        (
            "experiment=st_multiplier_two_movers",
            "model/backbone=resnet18",
            "model.backbone.weights=null",
        ),
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    stage, least_frames, overrides = NETWORKS[request.param]
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = random_checkpoint(folder / "net.ckpt", stage, *overrides)
    result = export_checkpoint(str(checkpoint), folder, request.param)
    assert list(result.files) == ["torch", "onnx"]
    assert result.about["least_frames"] == least_frames
    return Exported(folder, checkpoint, request.param)


def random_clips(inputs: dict[str, int], batch: int, frames: int, size: int = 56) -> Clips:
    return tuple(
        torch.randint(256, (batch, channels, frames, size, size), dtype=torch.uint8)
        for channels in inputs.values()
    )


def test_both_files_compute_what_the_checkpoint_does(exported: Exported) -> None:
    """At numbers and lengths that neither the exporter nor its own check has seen."""
    session = exported.session()
    inputs = {one.name: one.shape[1] for one in session.get_inputs()}
    program = torch.export.load(exported.folder / f"{exported.name}.pt2").module()
    for batch, frames in ((1, 8), (4, 12)):
        clips = dict(zip(inputs, random_clips(inputs, batch, frames), strict=True))
        expected = exported.expected(clips)
        given = session.run(None, {name: clip.numpy() for name, clip in clips.items()})
        with torch.inference_mode():
            traced = program(*clips.values())
        assert len(given) == len(traced) == len(expected)
        for ours, onnx, torchs in zip(expected, given, traced, strict=True):
            scale = float(ours.abs().max())
            assert_close(torch.from_numpy(onnx), ours, rtol=0, atol=1e-5 * scale)
            assert_close(torchs, ours, rtol=0, atol=1e-5 * scale)
    if exported.name != "joint_pooled":
        return
    clips = dict(zip(inputs, random_clips(inputs, 2, 8, size=64), strict=True))
    with pytest.raises(Exception, match=r"invalid dimensions.*(?s:.)*Got: 64 Expected: 56"):
        session.run(None, {name: clip.numpy() for name, clip in clips.items()})


def test_metadata(exported: Exported) -> None:
    about = json.loads((exported.folder / f"{exported.name}.json").read_text())
    _, metadata = load_module(str(exported.checkpoint))
    assert about["class_names"] == metadata.class_names
    assert about["normalization"] == metadata.normalization
    assert about["flow"]["algorithm"] == "tvl1"
    assert about["flow"]["bound"] == 20
    assert about["protocol"] == "11 full frames at 64 px, mean of logits"
    assert about["notes"] == metadata.config["notes"]
    assert (about["split"], about["version"], about["opset"]) == (1, __version__, 20)
    session = exported.session()
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(found["class_names"]) == about["class_names"]
    assert (found["protocol"], found["opset"]) == (about["protocol"], "20")
    assert found.keys() == about.keys()
    for one in session.get_inputs():
        assert one.shape == about["inputs"][one.name]["shape"]
        assert one.type == "tensor(uint8)"
    assert [one.name for one in session.get_outputs()] == list(about["outputs"])
    extra = {"description.json": ""}
    torch.export.load(exported.folder / f"{exported.name}.pt2", extra_files=extra)
    assert json.loads(extra["description.json"]) == about


def test_size_and_type_can_be_chosen(
    tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = random_checkpoint(tmp_path / "net.ckpt", "appearance")
    chosen = ("format=onnx", "size=[40,72]", "dtype=float32", "opset=18", f"output={tmp_path}")
    assert call(export.main, f"ckpt_path={checkpoint}", *chosen) == 0
    printed = capfd.readouterr().out
    assert "(batch, 3, frames, 40, 72), float32" in printed
    assert "ONNX opset: 18" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "net.ckpt",
        "st_resnet_two_movers_appearance.json",
        "st_resnet_two_movers_appearance.onnx",
    ]
    session = ort.InferenceSession(tmp_path / "st_resnet_two_movers_appearance.onnx")
    clip = torch.rand(2, 3, 4, 40, 72) * 255
    (given,) = session.run(None, {"rgb": clip.numpy()})
    module, _ = load_module(str(checkpoint))
    with torch.inference_mode():
        expected = module.logits({"rgb": clip})["appearance"]
    scale = float(expected.abs().max())
    assert_close(torch.from_numpy(given), expected, rtol=0, atol=1e-5 * scale)


def test_a_file_that_computes_something_else_gets_no_name(
    tmp_path: Path,
    call: Call,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = random_checkpoint(tmp_path / "net.ckpt", "appearance")
    ending, save, load = exporting.FORMATS["torch"]

    def spoilt(path: Path) -> Callable[..., Clips]:
        run = load(path)
        return lambda *clips: tuple(1.001 * logits for logits in run(*clips))

    monkeypatch.setitem(exporting.FORMATS, "torch", (ending, save, spoilt))
    arguments = (f"ckpt_path={checkpoint}", f"output={tmp_path}", "name=net", "format=[torch]")
    assert call(export.main, *arguments) == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error:"))
    assert "net.unchecked.pt2 does not compute what the checkpoint computes" in line
    assert not (tmp_path / "net.pt2").exists()
    assert not (tmp_path / "net.json").exists()


@pytest.mark.parametrize(
    ("change", "relative"),
    [
        (lambda logits: logits, 0.0),
        (lambda logits: -logits, 2.0),
        (lambda logits: logits[:, :1], math.inf),
        (lambda logits: logits * math.nan, math.nan),
    ],
)
def test_differences_are_told(change: Callable[[Tensor], Tensor], relative: float) -> None:
    shape = ClipShape({"rgb": 3}, (4, 4), torch.uint8)

    def network(clip: Tensor) -> Clips:
        return (clip.float().mean((-2, -1)).transpose(1, 2),)

    changed = lambda clip: (change(*network(clip)),)  # noqa: E731
    found = compare(network, changed, ["appearance"], shape, [(1, 2), (3, 6)])
    assert [(one.batch, one.frames) for one in found] == [(1, 2), (3, 6)]
    for one in found:
        assert one.relative == pytest.approx(relative, nan_ok=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ckpt_path=gone.ckpt"], "gone.ckpt does not exist"),
        ([], "ckpt_path is not given"),
        (["ckpt_path=gone.ckpt", "format=[]"], "format=[]: needs torch or onnx, or both in a list"),
        (["ckpt_path=gone.ckpt", "format=caffe"], "format=caffe: needs torch or onnx"),
        (["ckpt_path=gone.ckpt", "size=[3]"], "size=[3]: needs an integer from 1, or two"),
        (["ckpt_path=gone.ckpt", "size=-1"], "size=-1: needs an integer from 1, or two"),
        (["ckpt_path=gone.ckpt", "opset=9"], "opset=9: needs an integer from 18"),
        (["ckpt_path=gone.ckpt", "dtype=int4"], "dtype=int4: needs uint8 or float32"),
        (["ckpt_path=gone.ckpt", "name=../net"], "name=../net: needs letters"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], named: str, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(export.main, *arguments) == 1
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error:"))
    assert named in line


def test_a_missing_library_is_told_before_the_checkpoint_is_read(
    call: Call, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if "onnx" in name else name)
    assert call(export.main, "ckpt_path=gone.ckpt") == 1
    assert "format=onnx needs onnx: pip install -e '.[export]'" in capfd.readouterr().err
