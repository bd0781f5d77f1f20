"""Commands that are shown run when they are pasted into a shell, whatever paths are called."""

import csv
import re
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from src import report, train
from src.experiment.run_dir import StageDir
from src.utils.commands import expand_home, shown_command, shown_override

NASTY = (
    *("a=b", "a b", "a  b", " a ", "a,b", "a(b)", "[a]", "{a:b}", "it's", 'q"q', 'it\'s "q"', ""),
    *("$HOME", "$(ls)", "`ls`", "${x}", "\\${x}", "a\\\\${x}\\", "\\", "a\\", 'a\\"', "a\\,b"),
    *("#a", "größe", "日本 (語)", "~/x", "*?", "!x", ";", "&", "null", "5", "1e3", "true", "a:b"),
)


@pytest.mark.parametrize("text", NASTY)
def test_a_text_stays_itself_through_shell_and_hydra(text: str) -> None:
    line = f"printf '%s\\0' {shown_override(('k', text))} {shown_override(('k', [text, 'b']))}"
    arguments = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout
    alone, listed = [
        OmegaConf.create({"k": OverridesParser.create().parse_override(argument).value()}).k
        for argument in arguments.decode().split("\0")[:-1]
    ]
    assert (alone, list(listed)) == (text, [text, "b"])


def test_plain_commands_stay_plain() -> None:
    command = shown_command("evaluate", ("ckpt_path", Path("outputs/a_1-b/last.ckpt")), "top_k=5")
    assert command == "python -m src.evaluate ckpt_path=outputs/a_1-b/last.ckpt top_k=5"


def test_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = ("paths.run_dir=~/x", "inputs=[~/a,~/b]", 'input="~/x y"', "input=~", "a=b~/x", "~key")
    assert [*map(expand_home, given)] == [
        *("paths.run_dir=/home/me/x", "inputs=[/home/me/a,/home/me/b]", 'input="/home/me/x y"'),
        *("input=/home/me", "a=b~/x", "~key"),
    ]


def pasted(command: str) -> list[str]:
    """What a shell makes of a command, without `python -m`."""
    show = "python() { printf '%s\\0' \"$@\"; }; "
    done = subprocess.run(["sh", "-c", show + command], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[1:-1]


@pytest.mark.slow
def test_what_is_shown_can_be_pasted(
    tiny: tuple[str, ...],
    call: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    output = 'paths.output_dir="my runs, a=b (x)"'
    for experiment in ("two_stream", "motion"):
        assert call(train.main, *tiny, f"experiment={experiment}_two_movers", output) == 0
    shown = re.findall(r"^  (python -m .*)", capsys.readouterr().out, re.MULTILINE)

    # Unfinished, so that the report tells how it continues.
    StageDir(tmp_path / "my runs, a=b (x)/motion_two_movers/split1_seed0/motion").record.unlink()
    assert call(report.main, 'runs="my runs, a=b (x)"') == 0
    shown += re.findall(r"to resume it: (python -m .*)", capsys.readouterr().out)
    with (tmp_path / "outputs" / "report" / "report.csv").open(newline="") as file:
        shown.append(next(csv.DictReader(file))["command"])

    video = next(Path(tiny[-1].partition("=")[2]).rglob("*.mp4"))
    called = []
    for command in shown:
        module, *arguments = pasted(command.replace("input=video.mp4", f"input={video}"))
        assert call(import_module(module).main, *arguments) == 0
        called.append(module.removeprefix("src."))
    beside = ("predict", "report")
    assert called == ["fuse", *beside, "evaluate", *beside, "train", "train"]
