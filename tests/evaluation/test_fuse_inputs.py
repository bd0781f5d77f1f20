"""`evaluate` by another protocol, and `fuse` over checkpoints and files, on a tiny finished run."""

import csv
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from src import evaluate, fuse
from src.evaluation.scores import VideoScores, video_accuracies
from src.training.pipeline import run_experiment
from src.utils.errors import UserError
from tests.conftest import compose_config

WHOLE = "11 full frames at 64 px, mean of logits"
FIVE = "11 frames x 5 crops of 56 px at 64 px, mean of probabilities"  # two_movers forbid mirrors
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run an entry point in an empty folder; what it prints, or its one line of error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # tables are not wrapped

    def call(main: Callable[[], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        failed = False
        try:
            main()
        except SystemExit:
            failed = True
        printed = capsys.readouterr()
        if failed:
            (line,) = [line for line in printed.err.splitlines() if line.startswith("error:")]
            return line
        return " ".join(printed.out.split())

    return call


@pytest.fixture
def stages(finished_run: Path, tmp_path: Path) -> Path:
    """Both streams of the run, where evaluations may be written."""
    for stage in ("appearance", "motion", "joint"):
        shutil.copytree(finished_run / stage, tmp_path / stage)
    return tmp_path


def saved(scores: VideoScores, path: Path) -> Path:
    """Scores as another program would write them: reversed, no labels, endings, more videos."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*reversed(scores.classes), "video"])
        for video, row in reversed(list(zip(scores.videos, scores.scores, strict=True))):
            writer.writerow([*reversed(row.tolist()), f"class/{video}.avi"])
        writer.writerow([*(0 for _ in scores.classes), "another"])
    return path


@pytest.mark.slow
def test_evaluate_by_another_protocol(run: Run, stages: Path) -> None:
    """As asked for on the command line; the numbers are those of the module with that protocol."""
    checkpoint = f"ckpt_path={stages / 'joint' / 'last.ckpt'}"
    assert f"protocol: {WHOLE}" in run(evaluate.main, checkpoint)
    file = stages / "joint" / "evaluation" / "scores.csv"
    whole = VideoScores.load(file)
    assert_close(whole.scores, VideoScores.load(stages / "joint" / "scores.csv").scores)

    printed = run(
        evaluate.main, checkpoint, "protocol=ten_crops", "protocol.average_over=probabilities"
    )
    assert f"protocol: {FIVE}" in printed
    ten = VideoScores.load(file)
    assert ten.protocol == FIVE
    assert ten.videos == whole.videos
    assert_close(ten.scores.sum(1), torch.ones(8))
    assert "mean of probabilities" in run(
        evaluate.main, checkpoint, "protocol.average_over=probabilities"
    )
    assert not torch.allclose(VideoScores.load(file).scores, ten.scores, atol=1e-5)


def test_a_protocol_that_does_not_fit_is_one_line(run: Run, stages: Path) -> None:
    checkpoint = f"ckpt_path={stages / 'motion' / 'last.ckpt'}"
    small = ("protocol=ten_crops", "+data.crop_size=80")
    assert "cuts 80 pixels out of frames of 64" in run(evaluate.main, checkpoint, *small)
    assert "protocol.average_over=max" in run(
        evaluate.main, checkpoint, "protocol.average_over=max"
    )
    assert "nine_crops" in run(evaluate.main, checkpoint, "protocol=nine_crops")


@pytest.mark.slow
def test_a_stage_tested_by_another_protocol(tiny: tuple[str, ...], stages: Path) -> None:
    """Refused: its numbers are of the other. An unfinished one is tested by it if forced to."""
    overrides = (*tiny, f"paths.run_dir={stages}", "run_stages=motion", "protocol=center_crop")
    cfg = compose_config("train", *overrides)
    forced = compose_config("train", *overrides, "resume=force")
    refusal = (
        r"motion was trained with another config \(protocol.crop: center, full_frame there\): "
    )
    with pytest.raises(UserError, match=rf"{refusal}python -m src.evaluate ckpt_path=.* tests it"):
        run_experiment(cfg)
    run_experiment(forced)
    assert VideoScores.load(stages / "motion" / "scores.csv").protocol == WHOLE
    (stages / "motion" / "stage.json").unlink()
    with pytest.raises(UserError, match=rf"{refusal}give a new paths.run_dir, or resume=force"):
        run_experiment(cfg)
    run_experiment(forced)  # resumes from the checkpoint, which is at its end, with the test
    name = "11 center crops of 56 px at 64 px, mean of logits"
    assert VideoScores.load(stages / "motion" / "scores.csv").protocol == name
    with (stages / "results.csv").open() as file:
        protocols = {row["name"]: row["protocol"] for row in csv.DictReader(file)}
    assert protocols["motion"] == name
    assert "late fusion of both" not in protocols  # of two protocols there is none


def test_fuse_a_checkpoint_our_scores_and_others(run: Run, stages: Path) -> None:
    """The table is that of the weighted mean, and the checkpoint's scores lie beside it."""
    motion, joint = (VideoScores.load(stages / s / "scores.csv") for s in ("motion", "joint"))
    others = saved(joint, stages / "idt.csv")
    printed = run(
        fuse.main,
        "inputs=[appearance/last.ckpt,motion/scores.csv,idt.csv]",
        "weights=[1,2,0.5]",
        "output=deep/fused.csv",
    )
    appearance = VideoScores.load(stages / "appearance" / "evaluation" / "scores.csv")
    before = VideoScores.load(stages / "appearance" / "scores.csv")
    assert_close(appearance.scores, before.scores)
    fused = VideoScores.load(stages / "deep" / "fused.csv")
    parts = (appearance, motion, joint)
    expected = sum(w * p.scores for w, p in zip((1, 2, 0.5), parts, strict=True)) / 3.5
    assert_close(fused.scores, expected)
    assert (fused.videos, fused.labels) == (motion.videos, motion.labels)
    assert fused.protocol == f"1 x ({WHOLE}) + 2 x ({WHOLE}) + 0.5 x (external)"
    assert f"protocol 3: {fused.protocol}" in printed
    for name, scores, protocol in (
        ("appearance/last.ckpt", appearance, 1),
        ("motion/scores.csv", motion, 1),
        (others.name, joint, 2),
        ("late fusion 1 : 2 : 0.5", fused, 3),
    ):
        numbers = video_accuracies(scores)
        row = f"{numbers.top1:.1f} │ {numbers.top5:.1f} │ {numbers.mean_class:.1f} │ 8 │ {protocol}"
        assert f"{name} │ {row}" in printed


def test_what_one_input_lacks_is_told(run: Run, stages: Path) -> None:
    joint = VideoScores.load(stages / "joint" / "scores.csv")
    text = (stages / "joint" / "scores.csv").read_text()
    (stages / "half.csv").write_text("".join(text.splitlines(keepends=True)[:5]))
    printed = run(fuse.main, "inputs=[half.csv,joint/scores.csv]")
    told = "joint/scores.csv has scores for 4 videos that half.csv lacks, the first is "
    assert told + joint.videos[4] in printed


def test_fuse_evaluates_checkpoints_by_another_protocol(run: Run, stages: Path) -> None:
    protocol = ("protocol=ten_crops", "protocol.average_over=probabilities")
    inputs = "inputs=[appearance/last.ckpt,motion/last.ckpt]"
    printed = run(fuse.main, inputs, "average_over=probabilities", *protocol)
    parts = [
        VideoScores.load(stages / s / "evaluation" / "scores.csv") for s in ("appearance", "motion")
    ]
    assert {part.protocol for part in parts} == {FIVE}
    fused = VideoScores.load(stages / "fused_scores.csv")
    assert_close(fused.scores, (parts[0].scores + parts[1].scores) / 2)
    assert fused.protocol == FIVE  # already a mean of probabilities
    assert printed.count("protocol") == 1


def test_labels_come_from_the_first_input_that_has_them(run: Run, stages: Path) -> None:
    joint = VideoScores.load(stages / "joint" / "scores.csv")
    saved(joint, stages / "idt.csv")
    run(fuse.main, "inputs=[idt.csv,joint/scores.csv]")
    fused = VideoScores.load(stages / "fused_scores.csv")
    assert (fused.videos, fused.labels, fused.classes) == (
        joint.videos,
        joint.labels,
        joint.classes,
    )
    assert_close(fused.scores, joint.scores)
    assert "no input has a column named label" in run(fuse.main, "inputs=[idt.csv,idt.csv]")


def test_data_elsewhere(run: Run, stages: Path, tiny: tuple[str, ...]) -> None:
    moved = stages / "moved"
    shutil.copytree(tiny[-1].split("=")[1], moved)
    inputs = "inputs=[motion/last.ckpt,joint/scores.csv]"
    run(fuse.main, inputs, f"+data.dataset.root={moved}")
    assert "dataset.rot is not in the checkpoint's config" in run(
        fuse.main, inputs, "+data.dataset.rot=x"
    )


@pytest.mark.slow
def test_mistakes_are_found_before_anything_is_evaluated(run: Run, stages: Path) -> None:
    content = torch.load(stages / "motion" / "last.ckpt", weights_only=True)
    content["experiment"]["split"] = 2
    torch.save(content, stages / "split2.ckpt")
    content["experiment"] |= {"split": 1, "class_names": [*"abcdefgh"]}
    torch.save(content, stages / "classes.ckpt")
    gone, *others = VideoScores.load(stages / "joint" / "scores.csv").classes
    (stages / "short.csv").write_text(f"video,{','.join(others)}\nx,1,2,3,4,5,6,7\n")
    short = f"short.csv lacks 1 of the 8 classes of motion/last.ckpt, the first is {gone}"
    for inputs, message in (
        ("inputs=[motion/last.ckpt,split2.ckpt]", "split2.ckpt was trained on split 2"),
        ("inputs=[motion/last.ckpt,classes.ckpt]", "classes.ckpt lacks 8 of the 8 classes"),
        ("inputs=[motion/last.ckpt,short.csv]", short),
        ("inputs=[motion/last.ckpt,gone.csv]", "gone.csv is not a file of video scores"),
        ("inputs=[motion/last.ckpt,gone.ckpt]", "gone.ckpt does not exist"),
        ("inputs=[motion/last.ckpt]", "fusion needs two or more"),
        ("inputs=motion/last.ckpt", "is no list: write inputs=["),
        ("inputs=[motion/last.ckpt,a.csv] weights=[1]", "needs one for each of the 2 inputs"),
        ("inputs=[motion/last.ckpt,a.csv] average_over=max", "choose from logits, probabilities"),
        ("", "inputs"),
    ):  # fmt: skip
        assert message in run(fuse.main, *inputs.split())
    assert not (stages / "motion" / "evaluation").exists()


def test_a_missing_video_is_named(run: Run, stages: Path) -> None:
    joint = VideoScores.load(stages / "joint" / "scores.csv")
    file = saved(joint, stages / "idt.csv")
    missing = joint.videos[3]
    lines = [line for line in file.read_text().splitlines() if missing not in line]
    file.write_text("\n".join(lines))
    error = run(fuse.main, "inputs=[joint/scores.csv,idt.csv]")
    assert f"1 of the 8 videos of joint/scores.csv, the first is {missing}" in error
