"""CONTRIBUTING.md, done as it says: its files written down, its commands run."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import src.data
import src.models
from src import evaluate, extract_flow, train, verify_data
from tests.documents import ROOT
from tests.test_documentation import CPU, FLOW, SMALL, moving

pytestmark = pytest.mark.slow

FILE = re.compile(r"# ((?:src|conf)/\S+)\n+(.*)", re.DOTALL)  # a block of code that is a file


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The document's files, found as if they lay in the project; where their configs are."""
    blocks = MarkdownIt("commonmark").parse((ROOT / "CONTRIBUTING.md").read_text())
    files = [FILE.fullmatch(block.content) for block in blocks if block.type == "code_block"]
    for file in filter(None, files):
        path = tmp_path / "checkout" / file[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file[2])
    for room in (src.data, src.models):
        folder = tmp_path / "checkout" / "src" / room.__name__.rpartition(".")[2]
        monkeypatch.setattr(room, "__path__", [*room.__path__, str(folder)])
    monkeypatch.chdir(tmp_path)
    return [f"--config-dir={tmp_path / 'checkout' / 'conf'}"]


def test_a_dataset_of_ones_own(checkout: list[str], call: Callable[..., int]) -> None:
    root, lines = Path("data/diving"), []
    for number, part in enumerate(("train", "train", "test", "test")):
        clip = f"{('forward', 'back')[number % 2]}/dive{number}.mp4"
        moving(root / "videos" / clip, number)
        lines.append(f"{clip} {part}\n")
    (root / "split1.txt").write_text("".join(lines))
    flow = (f"input={root}/videos", f"output={root}/tvl1_flow")
    assert call(extract_flow.main, *flow, *FLOW) == 0
    assert call(verify_data.main, *checkout, "data=diving", "workers=1") == 0
    short = (*SMALL, "debug=steps", "run_stages=appearance", "data.num_classes=2")
    assert call(train.main, *checkout, "experiment=st_resnet_diving", *short) == 0
    assert Path("outputs/debug/st_resnet_diving/split1_seed0/appearance/scores.csv").is_file()


def test_a_network_of_ones_own(
    checkout: list[str], tiny: tuple[str, ...], finished_run: Path, call: Callable[..., int]
) -> None:
    """Evaluate takes its checkpoint, too."""
    own = ("model=mean_gate", "skip_stages=joint_pooled", "name=mean_gate")
    assert call(train.main, *checkout, *own, *tiny, "debug=summary") == 0
    streams = f"paths.streams_dir={finished_run}"
    assert call(train.main, *checkout, *own, *tiny, streams) == 0
    joint = Path("outputs/mean_gate/split1_seed0/joint")
    on_cpu = (*CPU, "+data.loader.num_workers=0")
    assert call(evaluate.main, f"ckpt_path={joint / 'last.ckpt'}", *on_cpu) == 0
    assert (joint / "evaluation/scores.csv").read_text() == (joint / "scores.csv").read_text()
