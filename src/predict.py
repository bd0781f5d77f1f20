"""Classify videos: files, folders, patterns, a camera or a stream.

    python -m src.predict ckpt_path=joint.ckpt input=clip.mp4
    python -m src.predict ckpt_path=joint.ckpt 'input=videos/*.mp4' output=predictions.json
    python -m src.predict ckpt_path=joint.ckpt input=film.mp4 window=4 step=1 plot=out annotate=out
    python -m src.predict ckpt_path=joint.ckpt input=rtsp://camera/live window=4

The exit status is 1 if a video could not be read.
"""

import sys
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig

from src.cli import command
from src.utils.commands import shown_command
from src.utils.errors import UserError, first_line
from src.utils.values import NAMES, NULL, PATH, integer, number

SECONDS = number("a number above 0", lambda seconds: seconds > 0)


@command(
    "predict",
    ckpt_path=PATH,
    input=NAMES,
    output=PATH,
    top_k=integer(1),
    window=SECONDS | NULL,
    step=SECONDS | NULL,
    annotate=PATH | NULL,
    plot=PATH | NULL,
)
def main(cfg: DictConfig) -> None:
    """Print the most probable classes of every video and write them to a file."""

    import torch

    from src.evaluation.evaluate import load_module
    from src.media.frames_in_order import is_stream
    from src.prediction.inputs import class_folders, find_inputs
    from src.prediction.predict import Options, predict
    from src.prediction.predictor import Predictor

    options = Options(
        output=Path(cfg.output),
        top_k=cfg.top_k,
        window=cfg.window,
        step=cfg.step,
        annotate=Path(cfg.annotate) if cfg.annotate else None,
        plot=Path(cfg.plot) if cfg.plot else None,
    )
    named = cfg.input if isinstance(cfg.input, ListConfig) else [cfg.input]
    sources, absent = find_inputs([str(name) for name in named])
    options.check(sources)
    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        reason = first_line(error)
        raise UserError(f"device={device}: cannot be used ({reason}): leave it out") from error
    predictor = Predictor(*load_module(cfg.ckpt_path), instantiate(cfg.flow), device)
    outcome = predict(predictor, sources, options)
    if outcome.any_written:
        print(f"written to {cfg.output}")
    if folder := class_folders([str(name) for name in named], predictor.class_names):
        test = shown_command("evaluate", ("ckpt_path", cfg.ckpt_path), ("videos", folder))
        print(f"the folders in {folder} are called as classes; how many are right: {test}")
    failed = absent | outcome.failed
    for reason in failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    if outcome.stopped and not is_stream(outcome.stopped):  # a stream has no other end
        print(f"stopped in {outcome.stopped}", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
