from pathlib import Path

import pytest

from src.utils.files import atomic_write


def test_the_file_changes_only_when_all_is_written(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_write(file) as draft:
        draft.write_text("ne" * 10000 + "\ud800", encoding="utf-8")
    assert file.read_text() == "old"
    with atomic_write(file) as draft:
        draft.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]
