"""Checkpoints that are whole at any time, whatever ends the process that writes them."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint under another name in the same folder, and renames it when it is whole.

    Lightning writes it into the folder for temporary files and moves it: from one file system to
    another that is a copy, and a process that is ended meanwhile leaves half a checkpoint in the
    place of the last one. It also keeps a second copy of everything in memory.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`; a draft that stays behind is overwritten by the next."""
        target = Path(path)
        draft = target.with_name(f"{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # before the name, so that a machine may fail too
        draft.replace(target)
