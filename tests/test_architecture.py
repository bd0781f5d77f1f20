"""Imports between the rooms of src/ go down; pyproject.toml has their order."""

import subprocess
import sys

from tests.documents import ROOT

# In a process of its own: it configures logging, and disables the loggers that there are.
LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


def test_imports_go_down() -> None:
    command = [sys.executable, "-c", LINT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
