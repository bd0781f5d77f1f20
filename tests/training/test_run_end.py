"""What a run says at its end: complete, short, and with paths that can be copied."""

import shlex
from pathlib import Path

import pytest

from src.training.pipeline import run_experiment
from tests.conftest import compose_config


def last_words(
    capsys: pytest.CaptureFixture[str], *overrides: str
) -> tuple[dict[str, list[str]], list[list[str]]]:
    """The paths by title and the commands, out of what a finished run prints."""
    run_experiment(compose_config("train", *overrides, "resume=force"))
    _, _, told = capsys.readouterr().out.partition("\nwritten:\n")
    written, _, following = told.partition("\n\nnext:\n")
    paths: dict[str, list[str]] = {}
    title = ""
    for line in written.splitlines():
        before, _, path = line.partition("/")
        title = before.strip() or title
        paths.setdefault(title, []).append(f"/{path}")
    return paths, [shlex.split(line) for line in following.splitlines()]


@pytest.mark.slow
def test_all_that_was_written_is_listed(
    tiny: tuple[str, ...], finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, commands = last_words(capsys, *tiny, f"paths.run_dir={finished_run}")
    last = finished_run / "joint_pooled"
    assert len(f"{last / 'scores.csv'}") > 80  # what a console of a log file would break
    assert paths == {
        "checkpoint": [f"{last / 'last.ckpt'}"],
        "scores": [f"{last / 'scores.csv'}"],
        "logs": [f"{last / 'csv'}", f"{last / 'tensorboard'}"],
        "pictures": [f"{last / 'samples'}"],
        "table": [f"{finished_run / 'results.csv'}"],
        **{
            f"stage {s}": [f"{finished_run / s}"]
            for s in ("appearance", "motion", "joint", "late_fusion")
        },
    }
    assert all(Path(path).exists() for several in paths.values() for path in several)
    assert [command[:3] for command in commands] == [
        ["python", "-m", f"src.{name}"] for name in ("evaluate", "predict", "report")
    ]
    for command in commands[:2]:
        assert command[3] == f"ckpt_path={last / 'last.ckpt'}"
    assert commands[2][3:] == [f"runs={finished_run}"]


def test_late_fusion_is_of_two_checkpoints(
    tiny: tuple[str, ...], copied_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("experiment=two_stream_two_movers", f"paths.run_dir={copied_run}")
    paths, commands = last_words(capsys, *tiny, *only)
    both = [f"{copied_run / s / 'last.ckpt'}" for s in ("appearance", "motion")]
    assert paths["checkpoint"] == both
    assert len(paths["logs"]) == 4
    assert commands[0][2:4] == ["src.fuse", f"inputs=[{','.join(both)}]"]
