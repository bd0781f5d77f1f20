"""Reads back what W&B has written offline."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7  # bytes, of LevelDB's log format
FULL, FIRST, LAST = 1, 2, 4


def records(file: Path) -> Iterator[bytes]:
    """The records of a run file: LevelDB's log format, after a header of its own."""
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    place, record = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # too little for a header: the rest is empty
            place += BLOCK - place % BLOCK
            continue
        size = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]
        part = content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        record = part if kind in (FULL, FIRST) else record + part
        if kind in (FULL, LAST):
            yield record


class OfflineRun:
    """The content of a stage's offline run.

    `logged` has every value by its key, in order, of media by key/path and the like; `about` the
    run itself; `config` its config; `artifacts` type, files and metadata by name; `exit_code` how
    it ended, None if it did not.
    """

    def __init__(self, stage_dir: Path) -> None:
        (file,) = (stage_dir / "wandb").glob("offline-run-*/run-*.wandb")
        self.files = file.parent / "files"
        self.logged: dict[str, list[Any]] = {}
        self.config: dict[str, Any] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.about: Any = None
        self.exit_code: int | None = None
        for content in records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            self._take(record)

    def _take(self, record: Any) -> None:
        match record.WhichOneof("record_type"):
            case "run":
                self.about = record.run
                self._configure(record.run.config.update)
            case "config":
                self._configure(record.config.update)
            case "history":
                for item in record.history.item:
                    key = item.key or "/".join(item.nested_key)
                    self.logged.setdefault(key, []).append(json.loads(item.value_json))
            case "artifact":
                self.artifacts[record.artifact.name] = {
                    "type": record.artifact.type,
                    "files": [entry.path for entry in record.artifact.manifest.contents],
                    "metadata": json.loads(record.artifact.metadata or "{}"),
                }
            case "exit":
                self.exit_code = record.exit.exit_code

    def _configure(self, items: Any) -> None:
        for item in items:
            self.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)

    def table(self, key: str) -> dict[str, Any]:
        """A table's columns and data."""
        return dict(json.loads((self.files / self.logged[f"{key}/path"][-1]).read_text()))
