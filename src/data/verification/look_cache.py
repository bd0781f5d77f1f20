"""Looks at videos, kept between runs: a line of JSON each, written as they come."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from src.data.verification.inspection import Look
from src.errors import UserError
from src.whole_files import whole


class LookCache:
    """Looks by the identity of what was looked at; a killed run loses none but the last.

    Args:
        file: where they are kept.
        fresh: forget what is there.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, file: Path, fresh: bool = False) -> None:
        self.file = file
        self._looks: dict[str, tuple[bool, Look]] = {} if fresh else _load(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._lines = file.open("w" if fresh else "a")
            self._lines.write("\n")  # after a line that a killed run has left unfinished
        except OSError as error:
            raise UserError(
                f"{file} cannot be written ({error.strerror}): give a place for the manifest with "
                "data.manifest=<file>.csv"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def get(self, key: str, full: bool) -> Look | None:
        """A look that is at least as thorough as `full` asks for."""
        was_full, look = self._looks.get(key, (False, None))
        return look if was_full or not full else None

    def add(self, key: str, full: bool, look: Look) -> None:
        """Keep a look."""
        self._looks[key] = (full, look)
        self._lines.write(_line(key, full, look))
        self._lines.flush()

    def keep_only(self, keys: Iterable[str]) -> None:
        """Drop the looks at what has changed or gone since."""
        self._lines.close()
        kept = {key: self._looks[key] for key in keys if key in self._looks}
        with whole(self.file) as draft, draft.open("w") as lines:
            lines.writelines(_line(key, *look) for key, look in kept.items())


def key_of(identity: Any) -> str:
    """A short key for an identity."""
    return blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()


def _line(key: str, full: bool, look: Look) -> str:
    return json.dumps([key, full, asdict(look)]) + "\n"


def _load(file: Path) -> dict[str, tuple[bool, Look]]:
    looks = {}
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError):
        return {}
    for line in lines:
        try:
            key, full, look = json.loads(line)
            looks[key] = (full, Look(**look | {"size": tuple(look["size"])}))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # unfinished, or of another version: looked at again
    return looks
