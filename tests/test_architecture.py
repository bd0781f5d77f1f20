"""Imports between the rooms of src/ go down; pyproject.toml has their order."""

from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_imports_go_down() -> None:
    config = Path(__file__).parents[1] / "pyproject.toml"
    assert lint_imports(str(config), no_cache=True) == EXIT_STATUS_SUCCESS
