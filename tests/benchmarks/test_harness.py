"""Ratios within rounds, and figures that are kept and compared."""

from collections.abc import Callable
from pathlib import Path

import pytest

from src.benchmarks.harness import Candidate, Command, Timed, measure
from src.benchmarks.run import load, machine, save, show
from src.utils.errors import UserError


def taking(seconds: list[float], items: int = 10) -> Callable[[], Timed]:
    """A candidate's runs, of which the first does not count."""
    turns = iter([99.0, *seconds])
    return lambda: Timed(items, next(turns))


def test_ratios_are_of_the_same_round() -> None:
    """A machine that is slower in one round than in the next is so for all."""
    measured = measure(
        "race",
        "clips",
        [
            Candidate("old", taking([1, 10, 2])),
            Candidate("new", taking([0.5, 5, 1]), "a note"),
        ],
        rounds=3,
        notes=["on a track"],
    )
    old, new = measured.rows
    assert (old.rate, old.ratio) == (5, 1)  # 10, 1 and 5 a second
    assert (new.ratio, new.lowest, new.highest, new.note) == (2, 2, 2, "a note")


def test_spread_is_kept() -> None:
    measured = measure(
        "race", "clips", [Candidate("a", taking([1, 1, 1])), Candidate("b", taking([1, 2, 4]))], 3
    )
    assert (measured.rows[1].ratio, measured.rows[1].lowest, measured.rows[1].highest) == (
        0.5,
        0.25,
        1.0,
    )


def test_a_run_is_timed_that_has_not_timed_itself() -> None:
    measured = measure("sum", "sums", [Candidate("sum", lambda: len([sum(range(10_000))]))], 3)
    assert 10 < measured.rows[0].rate < 1e6


def test_kept_figures_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = measure("race", "clips", [Candidate("a", taking([1])), Candidate("b", taking([4]))], 1)
    file = tmp_path / "kept" / "before.json"
    save([before], file)
    assert load(file) == {"race": before}
    now = measure("race", "clips", [Candidate("a", taking([1])), Candidate("b", taking([2]))], 1)
    show(now, load(file)["race"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ b"))
    assert line.split("│")[3].strip() == "0.50"
    assert line.split("│")[5].strip() == "0.25"


@pytest.mark.parametrize("content", [None, "no JSON", "{}", '{"measurements": [{"title": 1}]}'])
def test_what_is_no_saved_benchmark(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=r"before\.json is no saved benchmark"):
        load(file)


def test_the_machine_is_named() -> None:
    about = machine()
    assert about["cpu"]
    assert about["torch"]


def test_what_is_warm_counts_from_the_first_run() -> None:
    runs = iter([1.0, 3.0, 5.0])
    measured = measure(
        "race", "clips", [Candidate("a", lambda: Timed(15, next(runs)))], 3, [], True
    )
    assert measured.rows[0].rate == 5


def test_a_command_is_timed_and_its_memory_kept() -> None:
    small, large = Command(["-c", "pass"]), Command(["-c", "b'x' * 10**8"])
    assert small() == large() == 1
    assert small.peaks[0] < 50  # less than this process has
    assert large.peaks[0] - small.peaks[0] == pytest.approx(10**8 / 2**20, rel=0.1)


def test_a_command_that_fails_shows_why() -> None:
    with pytest.raises(RuntimeError, match=r"status 3:\n(?s:.*)on fire"):
        Command(["-c", "print('on fire', file=__import__('sys').stderr); raise SystemExit(3)"])()
    assert Command(["-c", "raise SystemExit(3)"], status=3)() == 1
