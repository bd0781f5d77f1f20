"""One process of a job on several devices: `python -m src.training.rank`, started by `launch`."""

import json
import logging.config
import os
import pkgutil
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from src.training.launch import MISTAKE, bug_of, work_as_rank
from src.utils.mistakes import one_line_errors, quieten
from src.utils.processes import end_with_parent


def main(config: str, result: str, alive: str) -> None:
    """Do the job in the file `config`; the first process writes its value to `result`.

    Args:
        config: YAML with the keys work, config, logging and overrides.
        result: JSON file; when a bug ends the rank is written beside it.
        alive: number of a pipe that nothing comes through; its end is the end of the parent.
    """
    end_with_parent(Connection(int(alive), writable=False))
    job: Any = OmegaConf.to_container(OmegaConf.load(config))
    rank = int(os.environ["LOCAL_RANK"])
    if rank == 0 and os.environ.get("NODE_RANK", "0") == "0":
        logging.config.dictConfig(job["logging"])
    quieten()
    try:
        with one_line_errors():
            work = pkgutil.resolve_name(job["work"])
            cfg = OmegaConf.create(job["config"])  # by itself: its interpolations are from its root
            value = work_as_rank(work, cfg, job["overrides"])
    except SystemExit as end:
        sys.exit(MISTAKE if end.code == 1 else end.code)
    except Exception:
        bug_of(Path(result).parent, rank).write_text(str(time.monotonic()))
        raise
    if rank == 0:
        Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    main(*sys.argv[1:])
