"""One process at a time in a stage's directory: two would write over each other's checkpoints."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from src.errors import UserError
from src.ranks import of_first_rank, own_rank

log = logging.getLogger(__name__)
LOOK_AGAIN = 2.0  # seconds


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a directory while the block runs; of a job's ranks the first holds it, all wait for it.

    The lock is the process's own and ends with it, however it ends. Forked workers, which may
    outlive it for seconds, would hold one of `filelock` as well, and keep out the job that goes on.
    It also keeps out processes of other machines, where the file system can do that.

    Args:
        folder: made if it is not there.
        wait: until another process has left it, instead of refusing.

    Raises:
        UserError: another process holds it.
    """
    path = folder / ".lock"
    with contextlib.ExitStack() as opened:
        file = None
        if own_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context(path.open("a+"))  # not truncated: it tells who holds it
        told = False
        # Asked together, again and again: a rank that waited alone would lose its patience.
        while holder := of_first_rank(file and _take(file)):
            other = f"{folder} is in use by {holder}"
            if not wait:
                raise UserError(
                    f"{other}: wait for its end, or end it, or give another paths.run_dir; if "
                    f"there is no such process any more, delete {path}"
                )
            if not told:
                log.info("%s: waiting for its end", other)
                told = True
            time.sleep(LOOK_AGAIN)
        yield


def _take(file: IO[str]) -> str | None:
    """Take the file's lock, or tell who holds it."""
    try:
        fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # systems differ
        file.seek(0)
        return file.read().strip() or "another process"
    except OSError as error:
        log.warning(
            "%s cannot be locked (%s): start no second process in its folder",
            file.name,
            error.strerror,
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return None
