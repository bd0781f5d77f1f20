"""Late fusion: the mean of the scores of two streams trained apart, a finished stage of its own.

appearance/  motion/    the two streams
late_fusion/            beside them: stage.json, scores.csv and its protocol, no checkpoint
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from src.evaluation.analysis import Fusion
from src.evaluation.fusion import fuse
from src.evaluation.scores import VideoScores, video_accuracies
from src.experiment.config import StageConfig
from src.experiment.run_dir import StageDir
from src.models.temporal import STREAMS
from src.utils.errors import UserError

log = logging.getLogger(__name__)
LATE_FUSION = "late_fusion"


def late_fusion_config(stream: StageConfig) -> StageConfig:
    """The config of late fusion, which has the data and the test of a stream, and no network."""
    kept = {key: stream[key] for key in ("name", "seed", "paths", "data", "protocol")}
    init_from = {name: name for name in STREAMS}
    return {"stage": LATE_FUSION, **kept, "network": None, "model": {}, "init_from": init_from}


def late_fusion_dir(stages: Mapping[str, StageDir]) -> StageDir | None:
    """The directory of late fusion, None unless both streams are finished."""
    if not all(name in stages and stages[name].finished() for name in STREAMS):
        return None
    return StageDir(stages[STREAMS[-1]].path.with_name(LATE_FUSION))


def load_fused(folder: Path) -> Fusion:
    """The scores in a directory of late fusion, and those of the streams beside it.

    Raises:
        UserError: some of them are missing or broken.
    """
    files = {name: StageDir(folder.with_name(name)).scores() for name in (*STREAMS, LATE_FUSION)}
    scores = {name: VideoScores.load(file) for name, file in files.items()}
    return Fusion("late fusion", scores.pop(LATE_FUSION), scores)


def write_late_fusion(stages: Mapping[str, StageDir]) -> Fusion | None:
    """Fuse the two streams, unless that has been done with the scores that they have now.

    Returns:
        The fused scores; None if a stream is not finished, or the two do not fit each other.
    """
    stage_dir = late_fusion_dir(stages)
    if stage_dir is None:
        return None
    try:
        parts = {name: VideoScores.load(stages[name].scores()) for name in STREAMS}
        protocols = {part.protocol for part in parts.values()}
        if len(protocols) > 1:
            raise UserError(f"the streams were tested in two ways: {'; '.join(sorted(protocols))}")
        fused = Fusion("late fusion", fuse(list(parts.values())), parts)
    except UserError as error:  # one was tested on other videos, and resume=force shows both
        log.warning("no late fusion: %s", error)
        stage_dir.record.unlink(missing_ok=True)  # of scores that are there no more
        return None
    made_from = {
        name: hashlib.sha256(stages[name].scores().read_bytes()).hexdigest() for name in STREAMS
    }
    if (stage_dir.finished() or {}).get("made_from") == made_from:
        return fused
    stage_dir.path.mkdir(exist_ok=True)
    # Jobs that share their streams may all do so at once: each file is there completely.
    with TemporaryDirectory(dir=stage_dir.path) as draft:
        fused.scores.save(StageDir(Path(draft)).scores())
        for file in Path(draft).iterdir():
            file.replace(stage_dir.path / file.name)
    first, last = (stages[name].finished() or {} for name in STREAMS)
    about = {
        "protocol": fused.scores.protocol,
        "accuracy": asdict(video_accuracies(fused.scores)),
        "streams": {},
        "faults": first["faults"] + [f for f in last["faults"] if f not in first["faults"]],
        "made_from": made_from,
        **{key: last[key] for key in ("flow", "overrides", "version")},
    }
    streams = {name: stages[name] for name in STREAMS}
    stage_dir.finish(late_fusion_config(last["config"]), streams, about)
    return fused
