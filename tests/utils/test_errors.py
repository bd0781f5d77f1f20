"""Names from elsewhere are shown, and do nothing where they are shown."""

from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from src.data.faults import Faults
from src.evaluation.scores import Accuracy
from src.evaluation.table import Result, show_results
from src.plotting.charts import draw_confusion_matrix
from src.prediction.output import RankedClass, show_predictions
from src.utils.errors import UserError, visible
from src.utils.files import write_csv

ODD = ("\x1b[2J\u202eb", "line\nof \x07", "caf\udce9")


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert visible("café 北京 🎬 [red] C:\\n") == "café 北京 🎬 [red] C:\\n"
    assert [visible(name) for name in ODD] == [r"\x1b[2J\u202eb", r"line\nof \x07", r"caf\udce9"]


def test_in_messages_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(UserError("no \x1b]0;title\x07 in\n it")) == r"no \x1b]0;title\x07 in it"
    faults = Faults("videos are odd", 9, dict.fromkeys(ODD, "\x9b"))
    told = r"3 of 9 videos are odd: \x1b[2J\u202eb (\x9b), line\nof \x07, caf\udce9"
    assert str(faults) == told
    show_predictions([RankedClass(name, None, None, 1, "[red]\x1b[2J", 0.5) for name in ODD])
    show_results([Result(ODD[0], "", Accuracy(1, 0, 0, 0), ODD[0], (faults,))], "scores")
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    for name in map(visible, ODD):
        assert name in out
    assert r"[red]\x1b[2J" in out


def test_in_drawings() -> None:
    """Between dollars matplotlib sees a formula, and refuses one that it cannot read."""
    names = ["a$b_{$c", "$^$", ODD[0]]
    figure = draw_confusion_matrix(torch.eye(3, dtype=torch.int), names)
    FigureCanvasAgg(figure).draw()
    labels = figure.axes[0].get_yticklabels()
    assert labels[0].get_text() == r"a\$b_{\$c"


def test_in_files_of_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", [("video", "n"), *((name, 1.5) for name in ODD), ("=1", None)])
    lines = (tmp_path / "rows.csv").read_bytes().decode(errors="surrogateescape").splitlines()
    assert lines[0] == "video,n"
    assert lines[1:] == [
        "\\x1b[2J\u202eb,1.5",
        '"line',
        'of \\x07",1.5',
        "caf\udce9,1.5",
        "=1,",
    ]
