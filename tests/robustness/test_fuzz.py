"""Damaged files of every kind, for a minute in all; `--fuzz-seconds` makes it longer."""

import json
import multiprocessing
from pathlib import Path

import pytest

from tests.robustness.fuzz import MEMORY, READERS, fuzz


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc for the memory")
@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_end_in_a_result_or_one_line(
    kind: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seconds = pytestconfig.getoption("--fuzz-seconds") / len(READERS)
    seed = pytestconfig.getoption("--fuzz-seed")
    process = multiprocessing.get_context("forkserver").Process(
        target=fuzz, args=(kind, seconds, seed, tmp_path)
    )
    process.start()
    process.join(seconds + 120)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, f"the process ended with {process.exitcode}"
    result = json.loads((tmp_path / "result.json").read_text())
    print(kind, result)
    assert not result["failures"]
    assert result["inputs"] > seconds / 2
    assert result["MiB more"] < MEMORY / 2**20
