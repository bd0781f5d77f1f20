"""One process at a time in a stage's directory: two would write over each other's checkpoints."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError
from src.ranks import own_rank

log = logging.getLogger(__name__)
LOOK_AGAIN = 10.0  # seconds


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a directory while the block runs; of a job's processes the first holds it for all.

    The lock is the process's own and ends with it, however it ends. Forked workers, which may
    outlive it for seconds, would hold one of `filelock` as well, and keep out the job that goes on.
    It also keeps out processes of other machines, where the file system can do that.

    Args:
        folder: made if it is not there.
        wait: until another process has left it, instead of refusing.

    Raises:
        UserError: another process holds it.
    """
    if own_rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    # Not truncated by opening: it tells who holds it.
    with path.open("a+") as file:
        told = False
        while not _take(file.fileno(), folder):
            file.seek(0)
            other = f"{folder} is in use by {file.read().strip() or 'another process'}"
            if not wait:
                raise UserError(
                    f"{other}: wait for its end, or end it, or give another paths.run_dir; if "
                    f"there is no such process any more, delete {path}"
                )
            if not told:
                log.info("%s: waiting for its end", other)
                told = True
            time.sleep(LOOK_AGAIN)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _take(file: int, folder: Path) -> bool:
    """Whether nobody else holds the file's lock; it is ours now."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # systems differ
        return False
    except OSError as error:
        log.warning(
            "%s cannot be locked (%s): start no second process there", folder, error.strerror
        )
    return True
