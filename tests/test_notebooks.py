"""Every notebook runs from its first cell to its last on a tiny dataset or run."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from src.experiment.run_dir import StageDir

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"


def executed(name: str) -> tuple[str, int]:
    """What a notebook prints, and how many figures it shows."""
    book: Any = nbformat.read(NOTEBOOKS / name, as_version=4)
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    outputs = [each for cell in book.cells for each in cell.get("outputs", [])]
    printed = "".join(each.get("text", "") for each in outputs)
    shown = [each.get("data", {}) for each in outputs]
    printed += "".join(data.get("text/plain", "") for data in shown)
    return printed, sum("image/png" in data for data in shown)


def test_explore_data(tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERRIDES", " ".join(tiny))
    printed, figures = executed("explore_data.ipynb")
    assert "st_resnet_two_movers: stages appearance, motion, joint, joint_pooled" in printed
    assert "red_left                     2 train     1 test" in printed
    assert figures == 3  # clips, mixed clips, learning rates


def test_inspect_model(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPT_PATH", str(StageDir(finished_run / "joint").checkpoint))
    printed, figures = executed("inspect_model.ipynb")
    assert "untrained" not in printed
    assert "8 clips" in printed
    assert figures == 3  # Grad-CAM, contributions, temporal filters


def test_compare_runs(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", str(finished_run))
    printed, figures = executed("compare_runs.ipynb")
    assert "5 runs" in printed  # four stages, and the streams' late fusion
    assert "st_resnet_two_movers joint" in printed
    assert "other: " in printed
    assert figures == 1


def test_notebooks_are_kept_without_outputs() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        book: Any = nbformat.read(path, as_version=4)
        for cell in book.cells:
            assert not cell.get("outputs"), f"{path.name}: clear all outputs"
            assert not cell.get("execution_count"), f"{path.name}: clear all outputs"
