"""Files of paths and classes, as people have them: read where there is one way to, else refused."""

from pathlib import Path

import pytest

from src.data.video_list import ListedVideo, read_video_list
from src.utils.errors import UserError

TWO = [ListedVideo("a/1 x.mp4", "a", "a/1 x.mp4"), ListedVideo("b/2.mp4", "calm", "b/2.mp4")]
NUMBERED = [ListedVideo("a/1 x.mp4", "0", "a/1 x.mp4"), ListedVideo("b/2.mp4", "12", "b/2.mp4")]


@pytest.mark.parametrize(
    "content",
    [
        "path,class\na/1 x.mp4,a\nb/2.mp4,calm\n",
        "path;class\na/1 x.mp4;a\nb/2.mp4;calm",
        "path\tclass\na/1 x.mp4\ta\nb/2.mp4\tcalm\n",
        "Path,CLASS\r\na/1 x.mp4,a\r\nb/2.mp4,calm\r\n",
        "path, class\na/1 x.mp4, a\nb/2.mp4, calm\n",
        "class,path,seconds\na,a/1 x.mp4,7\ncalm,b/2.mp4,9\n",
        "\n\npath,class\n\na/1 x.mp4,a\n\n\nb/2.mp4,calm\n\n",
        "path,class\na/1 x.mp4,a,,\nb/2.mp4,calm,,\n",  # as a spreadsheet ends its lines
        '"path","class"\n"a/1 x.mp4","a"\n"b/2.mp4","calm"\n',
        "a/1 x.mp4,a\nb/2.mp4,calm\n",
        "a/1 x.mp4;a\nb/2.mp4;calm\n",
        "./a/1 x.mp4,a\nb//2.mp4,calm\n",
        '"path"\t"class"\n"a/1 x.mp4"\t"a"\n"b/2.mp4"\t"calm"\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_all_these_are_the_same_list(content: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(content.encode(encoding))
    assert read_video_list(tmp_path / "list.csv") == TWO


@pytest.mark.parametrize(
    "content",
    ["a/1 x.mp4 0\nb/2.mp4 12\n", "a/1 x.mp4\t0\nb/2.mp4\t12\n", "a/1 x.mp4,0\nb/2.mp4,12"],
)
def test_lists_of_other_frameworks_number_the_classes(content: str, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(content)
    assert read_video_list(tmp_path / "train.txt") == NUMBERED


def test_quotes_keep_what_separates(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('path,class\n"a, b.mp4","calm, no fight"\n')
    (video,) = read_video_list(tmp_path / "list.csv")
    assert (video.path, video.label) == ("a, b.mp4", "calm, no fight")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"path,class\nx.mp4,calm, no fight\n",
            "line 2: 3 columns, not 2: put what has a comma in it into quotes, such as "
            '"calm,no fight"',
        ),
        (b"path;class\nx.mp4;a;b\n", 'a semicolon in it into quotes, such as "a;b"'),
        (b"path,class\n\nx.mp4,a\ny.mp4,b\nx.mp4,a\n", "line 5: x.mp4 is in line 3, too: delete"),
        (b"x.mp4 0\n./x.mp4 1\n", "line 2: x.mp4 is in line 1, too"),
        (b"path,class\nx.mp4\n", "line 2: no class"),
        (b"x.mp4 0\ny.mp4\n", "line 2: no class"),
        (
            b"file,label\nx.mp4,a\n",
            "its first line is 'file,label'; it names the columns, path,class",
        ),
        (b"x.mp4 a b\n", "its first line is 'x.mp4 a b'"),
        (b"x.jpg,a\n", "its first line is 'x.jpg,a'"),
        (b"", "its first line is ''"),
        (b"path,class\n", "names no videos, its first line is its last"),
        ("path,class\ncaf\xe9.mp4,a\n".encode("latin1"), "is not in UTF-8 .*iconv -f latin1"),
        (b"\xff\xfep\x00a", "is not in UTF-8|names no videos"),
        (b'path,class\n"x.mp4,a\n', "cannot be read: line"),
    ],
)
def test_what_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UserError, match=told):
        read_video_list(tmp_path / "list.csv")
