"""Files that are there completely or not at all, wherever a process may end."""

import contextlib
import csv
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO
from uuid import uuid4

from src.utils.errors import UserError, without_controls

log = logging.getLogger(__name__)
RETRY_AFTER = 2.0  # seconds


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """The path of a draft beside `file`, which takes its name when the block ends well.

    Every process has its own draft; the last to end wins. A draft whose block fails is removed,
    that of a process that is killed stays.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield draft
        draft.replace(file)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def write_csv(file: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write rows as CSV, completely or not at all, with control characters as Python writes them.

    Cells keep what they are called otherwise: one may begin as a formula of a spreadsheet does.
    """
    with (
        atomic_write(file) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text,
    ):
        csv.writer(text, lineterminator="\n").writerows(map(csv_cells, rows))


def csv_cells(row: Iterable[object]) -> list[object]:
    """The cells of a row as `write_csv` writes them."""
    return [without_controls(cell) if isinstance(cell, str) else cell for cell in row]


def is_special(path: os.PathLike[str]) -> bool:
    """Whether there is something that is neither a file nor a folder: a pipe, a device, a socket.

    A link is what it leads to; one that leads nowhere is missing, not special.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_first(file: Path, text: str) -> None:
    """Write a file completely or not at all; of several that do, on any machines, the first wins.

    If there is one already, it stays.
    """
    part = file.with_name(f".{file.name}.{uuid4().hex}.part")
    part.write_text(text, encoding="utf-8")
    try:
        os.link(part, file)  # which fails if there is one, unlike a renaming
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(
    path: Path,
    hint: str = "",
    wait: bool = False,
    holds: bool = True,
    agree: Callable[[str | None], str | None] = lambda holder: holder,
) -> Iterator[None]:
    """Hold a lock, a file that is made with its folder and removed at the end, during the block.

    It is the process's own and ends with it, however it ends; forked workers, which may outlive it
    for seconds, do not keep it. It also keeps out processes of other machines, where the file
    system can do that.

    Args:
        path: of the file.
        hint: what else to do than to wait, for the message.
        wait: until another process lets go of it, instead of refusing.
        holds: whether this process is the one that takes it: of ranks, the first.
        agree: makes all ranks know what the first one knows. They ask together, again and again:
            a rank that waited alone would lose its patience.

    Raises:
        UserError: another process holds it.
    """
    file, holder, waiting = None, None, False
    try:
        while True:
            if holds:
                file, holder = _take(path)
            if not (holder := agree(holder)):
                break
            in_use = f"{path.parent} is in use by {holder}"
            if not wait:
                raise UserError(
                    f"{in_use}: wait for its end, or end it{hint and ', or '}{hint}; if there is "
                    f"no such process any more, delete {path}"
                )
            if not waiting:
                log.info("%s: waiting for its end", in_use)
                waiting = True
            time.sleep(RETRY_AFTER)
        yield
    finally:
        if file:
            path.unlink(missing_ok=True)
            file.close()


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock; one of this process's own would be lost by asking."""
    try:
        with path.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _take(path: Path) -> tuple[IO[str] | None, str | None]:
    """The locked file, or who holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+")  # not truncated: it says who holds it
        try:
            fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # systems differ
            with file:
                file.seek(0)
                return None, file.read().strip() or "another process"
        except OSError as error:
            log.warning("%s cannot be locked (%s): start no second process", path, error.strerror)
        if os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # its holder has removed it in between
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file, None
