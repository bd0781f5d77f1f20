"""Which weights a stage may start from, and which it refuses."""

from pathlib import Path

import pytest
import torch

from src.training.pipeline import run_experiment
from src.utils.errors import UserError
from tests.conftest import compose_config


def start(tiny: tuple[str, ...], run: Path, tmp_path: Path, *overrides: str) -> None:
    cfg = compose_config(
        "train",
        *tiny,
        "run_stages=joint",
        f"stages.joint.init_from.appearance={run}/appearance/last.ckpt",
        f"stages.joint.init_from.motion={run}/motion/last.ckpt",
        f"paths.run_dir={tmp_path / 'run'}",
        *overrides,
    )
    run_experiment(cfg)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("rgb_mean=[128,128,128]", r"appearance/last.ckpt was trained with rgb_mean \[123.67"),
        ("flow_std=1", "appearance/last.ckpt was trained with flow_std 57.63"),
    ],
)
def test_weights_bring_their_normalization(
    change: str, told: str, tiny: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        start(tiny, finished_run, tmp_path, f"model.backbone.normalize.{change}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (3, "no readable 'experiment' entry"),
        ({"normalization": {"rgb_mean": "?"}}, "was trained with rgb_mean ?"),
        ({"normalization": {"rgb_mean": [1, 2]}}, r"was trained with rgb_mean \[1, 2\]"),
        ({"normalization": {"rgb_sum": 1}}, "was trained with rgb_sum 1"),
    ],
)
def test_a_garbled_checkpoint_is_one_line(
    entry: object, reason: str, tiny: tuple[str, ...], finished_run: Path, tmp_path: Path
) -> None:
    content = torch.load(finished_run / "appearance" / "last.ckpt", weights_only=True)
    known = content["experiment"]
    content["experiment"] = known | entry if isinstance(entry, dict) else entry
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=rf"bad\.ckpt .*{reason}"):
        start(
            tiny,
            finished_run,
            tmp_path,
            f"stages.joint.init_from.appearance={tmp_path / 'bad.ckpt'}",
        )


def test_a_joint_nets_streams_may_be_taken_apart(
    tiny: tuple[str, ...],
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each part takes its own half of a joint checkpoint; the log says what became of it."""
    joint = finished_run / "joint" / "last.ckpt"
    overrides = [f"stages.joint.init_from.{part}={joint}" for part in ("appearance", "motion")]
    monkeypatch.setattr("src.training.pipeline.build_trainer", stop)
    with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
        start(tiny, finished_run, tmp_path, *overrides)
    loaded = [message for message in caplog.messages if "starts from" in message]
    tensors = torch.load(joint, weights_only=True)["state_dict"]
    for part, message in zip(("appearance", "motion"), loaded, strict=True):
        own = sum(name.startswith(f"net.{part}.") for name in tensors)
        assert message == f"{part} starts from {joint}: {own} tensors loaded"


def stop(*_: object) -> None:
    raise KeyboardInterrupt
