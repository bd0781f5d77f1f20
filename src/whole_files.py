"""Files that are there whole or not at all, wherever a process may end."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """The path of a draft beside `file`, which takes its name when the block ends well.

    Every process has its own draft; the last to end wins. A draft whose block fails is removed,
    that of a process that is killed stays.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield draft
        draft.replace(file)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
