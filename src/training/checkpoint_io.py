"""Checkpoints that are whole at any time, whatever ends the process that writes them."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from src.errors import UserError

LAST, BEST = "last.ckpt", "best.ckpt"


def previous(checkpoint: Path) -> Path:
    """Where the checkpoint before this one is kept."""
    return checkpoint.with_name(f"previous{checkpoint.suffix}")


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint under another name in the same folder, and renames it when it is whole.

    Lightning writes it into the folder for temporary files and moves it: from one file system to
    another that is a copy, and a process that is ended meanwhile leaves half a checkpoint in the
    place of the last one. It also keeps a second copy of everything in memory. The one before stays
    as well, because file systems lose what they have promised to keep.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`; a draft that stays behind is overwritten by the next.

        Raises:
            UserError: it cannot be written; those that are there stay as they are.
        """
        target = Path(path)
        draft = target.with_name(f"{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # before the name, so that a machine may fail too
            if target.exists() and target.name != BEST:  # which training never resumes from
                _keep(target)
            draft.replace(target)
        except (OSError, RuntimeError) as error:  # torch's writer makes one of the other
            with contextlib.suppress(OSError):
                draft.unlink()
            raise UserError(
                f"checkpoint {target} cannot be written ({_reason(error)}): make room or mend the "
                "folder, then the same command goes on from the checkpoint that is there"
            ) from error


def _keep(checkpoint: Path) -> None:
    """Make it the previous one, in its own place as well where the file system can do that."""
    kept = previous(checkpoint)
    kept.unlink(missing_ok=True)
    try:
        kept.hardlink_to(checkpoint)
    except OSError:
        checkpoint.replace(kept)


def _reason(error: BaseException) -> str:
    """What the system said, under whatever torch has made of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]
