"""What a run has shown so far: results of its finished stages, their streams and late fusion."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from src.data.faults import Faults
from src.errors import UserError
from src.evaluation.analysis import Fused
from src.evaluation.fusion import fuse
from src.evaluation.scores import Accuracy, VideoScores, judge_videos
from src.evaluation.table import Result
from src.models.temporal import STREAMS
from src.training.run_dir import StageDir

log = logging.getLogger(__name__)


def results_of_run(stages: Mapping[str, StageDir]) -> list[Result]:
    """Results of all finished stages, in order, with late fusion after the two streams.

    Late fusion is the mean of the scores of the separately trained streams. A joint net's two
    classifiers are also shown apart, before the two together.
    """
    results: list[Result] = []
    for stage, stage_dir in stages.items():
        record = stage_dir.finished()
        if record is None:
            continue
        protocol = record["protocol"]
        for stream in STREAMS:
            if stage_dir.scores(stream).is_file():
                accuracy = judge_videos(VideoScores.load(stage_dir.scores(stream)))
                results.append(Result(f"{stage}: {stream} classifier", stage, accuracy, protocol))
        faults = tuple(Faults(**about) for about in record.get("faults", ()))
        results.append(Result(stage, stage, Accuracy(**record["accuracy"]), protocol, faults))
        if fused := late_fusion(stages, stage, _scores(stage_dir)):
            name, whole = "late fusion of both", fused.whole
            results.append(Result(name, stage, judge_videos(whole), whole.protocol))
    return results


def late_fusion(stages: Mapping[str, StageDir], stage: str, scores: VideoScores) -> Fused | None:
    """The mean of the scores of the two streams, once the second has been tested.

    Args:
        stages: of the run.
        stage: that has been tested; None comes out unless it is the second stream.
        scores: its own.
    """
    first, second = STREAMS
    if stage != second or first not in stages or not stages[first].finished():
        return None
    parts = {first: _scores(stages[first]), second: scores}
    try:
        return Fused("late fusion", fuse(list(parts.values())), parts)
    except UserError as error:  # one was tested on other videos, and resume=force shows it
        log.warning("no late fusion: %s", error)
        return None


def _scores(finished: StageDir) -> VideoScores:
    """A stage's scores by the protocol of its record."""
    record = finished.finished() or {}
    return replace(VideoScores.load(finished.scores()), protocol=record["protocol"])
