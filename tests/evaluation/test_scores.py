from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src.errors import UserError
from src.evaluation.scores import VideoScores, fuse, judge_videos

CLASSES = ["brush_hair", "kick, ball", "sword"]
VIDEOS = ['a "trick"_(1)#&!;[x]', "b, with a comma", "c", "ä"]


def random_scores(videos: list[str] = VIDEOS, classes: int = 3, seed: int = 0) -> VideoScores:
    random, scores = torch.Generator().manual_seed(seed), VideoScores()
    for start in range(0, len(videos), 3):  # in batches
        batch = videos[start : start + 3]
        streams = {
            name: torch.randn(len(batch), classes, generator=random)
            for name in ("appearance", "motion")
        }
        labels = torch.arange(start, start + len(batch)) % classes
        scores.add(batch, labels, (streams["appearance"] + streams["motion"]) / 2, streams)
    return scores


def reordered(scores: VideoScores, order: list[int]) -> VideoScores:
    return VideoScores(
        [scores.videos[i] for i in order],
        [scores.labels[i] for i in order],
        [scores.rows[i] for i in order],
        {name: [rows[i] for i in order] for name, rows in scores.streams.items()},
    )


def test_save_and_load(tmp_path: Path) -> None:
    scores, file = random_scores(), tmp_path / "scores.csv"
    scores.rows[0] *= 1e-6
    scores.rows[1] *= 1e6
    scores.save(file, CLASSES)
    assert file.read_text().splitlines()[0] == 'video,label,brush_hair,"kick, ball",sword'
    loaded = VideoScores.load(file)
    assert (loaded.videos, loaded.labels) == (scores.videos, scores.labels)
    assert_close(loaded.scores, scores.scores, rtol=1e-6, atol=0)


HEADER = "video,label,walk,run\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        HEADER.encode(),
        b"\x89PNG\r\n\x1a\n\x00\xff",
        b"name,top1\nappearance,43.4\n",
        f"{HEADER}a,jump,1,2\n".encode(),
        f"{HEADER}a,walk,1,much\n".encode(),
        f"{HEADER}a,walk,1,2\nb\n".encode(),
        f"{HEADER}a,walk,1,2\nb,run,3".encode(),
    ],
    ids=[
        "empty", "no video", "binary", "another table", "unknown class", "no number",
        "cut in a name", "cut in the scores",
    ],
)  # fmt: skip
def test_a_broken_file_is_the_users(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"scores\.csv is not a file of video scores"):
        VideoScores.load(file)


def test_a_missing_file_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.csv is not a file of video scores"):
        VideoScores.load(tmp_path / "absent.csv")


def test_fusion_is_the_mean_by_video() -> None:
    first, second = random_scores(seed=1), random_scores(seed=2)
    fused = fuse(first, reordered(second, [2, 0, 3, 1]))
    assert (fused.videos, fused.labels) == (first.videos, first.labels)
    assert_close(fused.scores, (first.scores + second.scores) / 2)


@pytest.mark.parametrize("others", [VIDEOS[:3], [*VIDEOS, "d"], [*VIDEOS[:3], "d"]])
def test_other_videos_are_not_fused(others: list[str]) -> None:
    with pytest.raises(UserError, match="different lists of videos"):
        fuse(random_scores(), random_scores(others))


def test_one_stream() -> None:
    scores = random_scores()
    motion = scores.of_stream("motion")
    assert (motion.videos, motion.labels) == (scores.videos, scores.labels)
    assert_close(motion.scores, 2 * scores.scores - torch.stack(scores.streams["appearance"]))


def test_gathered_is_sorted_by_video() -> None:
    scores = random_scores()
    gathered = reordered(scores, [3, 1, 0, 2]).gathered()
    assert (gathered.videos, gathered.labels) == (scores.videos, scores.labels)
    assert_close(gathered.scores, scores.scores)
    for stream, rows in scores.streams.items():
        assert_close(gathered.streams[stream], rows)


def test_judged_as_numpy_does() -> None:
    scores = random_scores([f"video{number:02}" for number in range(40)], classes=8)
    judged = judge_videos(scores)
    labels = np.array(scores.labels)
    ranked = np.argsort(-scores.scores.numpy(), axis=1)
    hits = ranked == labels[:, None]
    assert judged.videos == 40
    assert judged.top1 == pytest.approx(100 * hits[:, 0].mean())
    assert judged.top5 == pytest.approx(100 * hits[:, :5].any(1).mean())
    per_class = [hits[labels == label, 0].mean() for label in range(8)]
    assert judged.mean_class == pytest.approx(100 * np.mean(per_class))
