from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from src.evaluation.scores import EXTERNAL, VideoScores, video_accuracies
from src.utils.errors import UserError
from tests.builders import PROTOCOL, random_scores, reordered


def test_save_and_load(tmp_path: Path) -> None:
    scores, file = random_scores(), tmp_path / "scores.csv"
    scores.scores[0] *= 1e-6
    scores.scores[1] *= 1e6
    scores.save(file)
    assert file.read_text().splitlines()[0] == 'video,label,brush_hair,"kick, ball",sword'
    loaded = VideoScores.load(file)
    assert (loaded.videos, loaded.labels) == (scores.videos, scores.labels)
    assert (loaded.classes, loaded.protocol) == (scores.classes, PROTOCOL)
    assert_close(loaded.scores, scores.scores, rtol=1e-6, atol=0)


def test_load_from_elsewhere(tmp_path: Path) -> None:
    """Columns in any order, no labels, a byte order mark, an empty last line, no protocol."""
    file = tmp_path / "idt.csv"
    file.write_text("run,video,walk\n-1,b,2e-1\n.5,ä,3\n\n", encoding="utf-8-sig")
    loaded = VideoScores.load(file)
    assert (loaded.videos, loaded.labels, loaded.classes) == (["b", "ä"], [], ("run", "walk"))
    assert_close(loaded.scores, torch.tensor([[-1, 0.2], [0.5, 3]]))
    assert loaded.protocol == EXTERNAL


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
        f"{HEADER}a,walk,1,2\na,run,3,4\n".encode(),
        f"{HEADER}a,walk,1,nan\n".encode(),
        f"{HEADER}a,walk,1,1e39\n".encode(),
        f"{HEADER}{'a' * 200_000},walk,1,2\n".encode(),
        b"video,label,walk,walk\na,walk,1,2\n",
        b"video\na\n",
    ],
    ids=[
        "empty", "no video", "binary", "another table", "unknown class", "no number",
        "cut in a name", "cut in the scores", "a video twice", "not finite", "too large",
        "a field without end", "a class twice", "no class",
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


def test_one_stream() -> None:
    scores = random_scores()
    motion = scores.classifiers()["motion"]
    assert (motion.videos, motion.labels) == (scores.videos, scores.labels)
    assert (motion.classes, motion.protocol) == (scores.classes, PROTOCOL)
    assert_close(motion.scores, 2 * scores.scores - scores.streams["appearance"])


def test_joined_is_sorted_by_video() -> None:
    scores = random_scores()
    joined = reordered(scores, [3, 1]).joined(reordered(scores, [0]), reordered(scores, [2]))
    assert (joined.videos, joined.labels) == (scores.videos, scores.labels)
    assert (joined.classes, joined.protocol) == (scores.classes, PROTOCOL)
    assert_close(joined.scores, scores.scores)
    for stream, rows in scores.streams.items():
        assert_close(joined.streams[stream], rows)


def test_judged_as_numpy_does() -> None:
    scores = random_scores(
        [f"video{number:02}" for number in range(40)], classes=[str(label) for label in range(8)]
    )
    judged = video_accuracies(scores)
    labels = np.array(scores.labels)
    ranked = np.argsort(-scores.scores.numpy(), axis=1)
    hits = ranked == labels[:, None]
    assert judged.videos == 40
    assert judged.top1 == pytest.approx(100 * hits[:, 0].mean())
    assert judged.top5 == pytest.approx(100 * hits[:, :5].any(1).mean())
    per_class = [hits[labels == label, 0].mean() for label in range(8)]
    assert judged.mean_class == pytest.approx(100 * np.mean(per_class))


def test_a_file_that_is_cut_at_the_end_of_a_line(tmp_path: Path) -> None:
    """The number of videos is beside it; a file from elsewhere has none."""
    file = tmp_path / "scores.csv"
    random_scores().save(file)
    videos = len(VideoScores.load(file).videos)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        UserError, match=rf"it has {videos - 1} of {videos} videos, it is cut short"
    ):
        VideoScores.load(file)
    file.with_suffix(".protocol.txt").write_text("ten crops\n")
    assert VideoScores.load(file).protocol == "ten crops"
