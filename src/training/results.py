"""What a run has shown so far: results of its finished stages, their streams and late fusion."""

from pathlib import Path

from src.evaluation.scores import Accuracy, VideoScores, fuse, judge_videos
from src.evaluation.table import Result
from src.training.run_dir import StageDir

STREAMS = ("appearance", "motion")


def results_of_run(run_dir: Path, stages: list[str]) -> list[Result]:
    """Results of all finished stages, in order, with late fusion after the two streams.

    Late fusion is the mean of the logits of the separately trained streams. A joint net's two
    classifiers are also shown apart, before the two together.
    """
    results: list[Result] = []
    for stage in stages:
        stage_dir = StageDir(run_dir / stage)
        record = stage_dir.finished()
        if record is None:
            continue
        protocol = record["protocol"]
        for stream in STREAMS:
            if stage_dir.scores(stream).is_file():
                accuracy = judge_videos(VideoScores.load(stage_dir.scores(stream)))
                results.append(Result(f"{stage}: {stream} classifier", stage, accuracy, protocol))
        results.append(Result(stage, stage, Accuracy(**record["accuracy"]), protocol))
        streams = [StageDir(run_dir / stream) for stream in STREAMS]
        if stage == STREAMS[-1] and all(stream.finished() for stream in streams):
            scores = fuse(*(VideoScores.load(stream.scores()) for stream in streams))
            results.append(Result("late fusion of both", stage, judge_videos(scores), protocol))
    return results
