"""The full report, in all its forms."""

import csv
import io
import json
from dataclasses import asdict
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from rich.console import Console

from src.experiment.build import build_protocol
from src.experiment.compose import CONF_DIR
from src.experiment.config import stage_config
from src.flow.settings import FlowSettings
from src.reporting.groups import read_published
from src.reporting.page import Cell, Column, Picture, Section, show, to_page
from src.reporting.report import make_report
from tests.builders import write_stage
from tests.conftest import compose_config

ODD = '<b onclick="x">&amp; a|b `c` [red]d[/red] *e* ü</b>'


class Page(HTMLParser):
    """Text of the cells and list items, the tags that are open, and all attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@cache
def composed(experiment: str) -> DictConfig:
    """The config as the experiment's file has it."""
    return compose_config("train", f"experiment={experiment}")


def write_published(
    folder: Path, experiment: str, stage: str, top1: dict[int, float], **changes: object
) -> None:
    """A finished stage of HMDB51 as published, tested on all videos, by split."""
    config = stage_config(composed(experiment), stage)
    protocol = build_protocol(config).name
    for split, number in top1.items():
        place = folder / experiment / f"split{split}_seed0" / stage
        content = config | {"data": config["data"] | {"split": split}} | changes
        write_stage(place, number, content, protocol=protocol, flow=asdict(FlowSettings()))
        record = json.loads((place / "stage.json").read_text())
        record["accuracy"]["videos"] = 1530
        (place / "stage.json").write_text(json.dumps(record))


def table_of(folder: Path, console: Console | None = None) -> dict[str, dict[str, str]]:
    """Cells of the results by the row's name and the column's, out of the page, if not empty."""
    console = console or Console(file=io.StringIO())
    make_report([str(folder)], str(folder / "report"), console=console)
    page = Page((folder / "report" / "report.html").read_text())
    names, *rows = page.tables[0]
    return {row[0]: {n: cell for n, cell in zip(names, row, strict=True) if cell} for row in rows}


@pytest.mark.slow
def test_beside_published_numbers(tmp_path: Path) -> None:
    """67.0 of three splits and the published config is compared; all else in brackets."""
    write_published(tmp_path, "st_resnet_hmdb51", "joint_pooled", {1: 66, 2: 67, 3: 68})
    write_published(tmp_path, "motion_hmdb51", "motion", {1: 57, 3: 59}, effective_batch_size=64)
    rows = table_of(tmp_path)
    assert rows["st_resnet_hmdb51 joint_pooled"] == {
        "trained": "st_resnet_hmdb51 joint_pooled",
        "dataset": "hmdb51",
        "protocol": "1",
        "runs": "split 1-3, seed 0, n=3",
        "top-1 %": "67.0 ± 1.0",
        "mean class %": "33.5 ± 0.5",
        "published": "66.4 b",
        "difference": "+0.6",
    }
    motion = rows["motion_hmdb51 motion"]
    assert motion["top-1 %"] == "58.0 ± 1.4"
    assert motion["difference"] == "(+2.2)"
    assert motion["notes"] == "splits 1, 3 only; changed: effective_batch_size=64"
    assert rows["ST-MulNet"]["runs"] == "not run"
    text = (tmp_path / "report" / "report.html").read_text()
    assert "source a: from memory, not verified</li>" in text
    assert "source b: later papers&#39; tables</li>" in text
    assert "\npython -m src.train -m experiment=st_multiplier_hmdb51 data.split=1,2,3</pre>" in text
    assert "-m experiment=st_resnet_hmdb51" not in text
    assert "-m experiment=motion_hmdb51" not in text
    assert "ucf101" not in text  # no run is of that


def test_other_protocol_and_other_flow(tmp_path: Path) -> None:
    write_published(tmp_path, "st_resnet_hmdb51", "joint_pooled", {2: 66})
    file = tmp_path / "st_resnet_hmdb51" / "split2_seed0" / "joint_pooled" / "stage.json"
    made_by = asdict(FlowSettings("dis", parameters={"preset": "medium"}))
    record = json.loads(file.read_text()) | {"protocol": "25 crops", "flow": made_by}
    file.write_text(json.dumps(record))
    row = table_of(tmp_path)["st_resnet_hmdb51 joint_pooled"]
    assert row["top-1 %"] == "66.0"
    notes = (
        "split 2 only; other protocol than published; changed: flow.algorithm=dis, "
        "flow.parameters.preset=medium, flow.parameters.tau=null and 10 more"
    )
    assert (row["difference"], row["notes"]) == ("(-0.4)", notes)


def test_part_of_the_videos_is_not_a_run_of_the_paper(tmp_path: Path) -> None:
    write_published(tmp_path, "st_resnet_hmdb51", "joint_pooled", {1: 66})
    file = tmp_path / "st_resnet_hmdb51" / "split1_seed0" / "joint_pooled" / "stage.json"
    file.write_text(file.read_text().replace("1530", "4"))
    row = table_of(tmp_path)["st_resnet_hmdb51 joint_pooled"]
    assert not {"published", "difference", "notes"} & row.keys()
    text = (tmp_path / "report" / "report.html").read_text()
    assert "mean of logits; 4 of 1530 videos" in text
    assert "experiment=st_resnet_hmdb51" in text


@pytest.mark.slow
def test_published_numbers_have_experiments_that_repeat_them() -> None:
    """Patterns fit an experiment's last stage, protocols are the default; of both datasets."""
    published = read_published()
    by_dataset = {
        dataset: [
            (one.model, one.rows, one.protocol) for one in published if one.dataset == dataset
        ]
        for dataset in ("hmdb51", "ucf101")
    }
    renamed = [
        (model, rows.replace("hmdb51", "ucf101"), protocol)
        for model, rows, protocol in by_dataset["hmdb51"]
    ]
    assert renamed == by_dataset["ucf101"]
    for one in published:
        assert not one.experiment or (CONF_DIR / "experiment" / f"{one.experiment}.yaml").is_file()
        if one.experiment and one.dataset == "hmdb51":
            cfg = composed(one.experiment)
            last = list(cfg.stages)[-1]
            assert one.rows.rpartition("/")[2] in (last, "late_fusion")
            assert build_protocol(stage_config(cfg, last)).name == one.protocol
    numbers = {(one.model, one.dataset): one.top1 for one in published}
    assert numbers["ST-ResNet", "hmdb51"] == 66.4
    known = {one.model for one in published if one.experiment and "memory" not in one.source}
    assert known == {"ST-ResNet"}
    assert all("not verified" in one.source for one in published if "memory" in one.source)


def test_forms_agree(tmp_path: Path) -> None:
    for seed, top1 in enumerate([40.0, 44.0, 45.0]):
        about: dict[str, Any] = {"overrides": [f"seed={seed}", "a=b c"], "version": "9"}
        alone = {"videos": 8, "top1": 12.5, "top5": 50.0, "mean_class": 12.0}
        place = tmp_path / "runs" / f"split1_seed{seed}" / "joint"
        write_stage(place, top1, experiment=ODD, streams={"appearance": alone}, **about)
    (tmp_path / "runs" / "split1_seed9" / "joint").mkdir(parents=True)
    (tmp_path / "runs" / "split1_seed9" / "joint" / "stage.json").write_text("<oops>")
    printed = io.StringIO()
    rows = table_of(tmp_path, Console(file=printed, width=400))
    row = rows[f"{ODD} joint"]
    assert (row["runs"], row["top-1 %"]) == ("split 1, seed 0-2, n=3", "43.0 ± 2.6")
    assert row["appearance classifier"] == "12.5 ± 0.0"
    assert "motion classifier" not in row
    assert "43.0 ± 2.6" in printed.getvalue()
    assert "[red]d[/red]" in printed.getvalue()
    assert "stage.json is not the record of a finished stage" in printed.getvalue()
    with (tmp_path / "report" / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(row["classifier"], row["seed"], float(row["top1"])) for row in lines[:2]] == [
        ("all", "0", 40),
        ("appearance", "0", 12.5),
    ]
    assert len(lines) == 6
    assert lines[0]["row"] == f"{ODD} joint"
    assert lines[0]["command"] == "python -m src.train seed=0 'a=b c'"
    assert lines[0]["directory"] == str(tmp_path / "runs" / "split1_seed0" / "joint")
    assert lines[0]["project_version"] == "9"


def test_page_stands_alone_and_escapes(tmp_path: Path) -> None:
    columns = (Column(ODD, ODD), Column("empty", ODD), Column("n", numeric=True))
    rows = [[Cell(ODD, hover=ODD), Cell(), Cell("1", 1.5)]]
    folded = Section(ODD, pictures=[Picture(b"1", "image/png", ODD)], folded=True)
    text = to_page(ODD, [Section(ODD, columns, rows, [ODD], [ODD]), folded])
    page = Page(text)
    assert page.open == []
    assert page.tables == [[[ODD, "n"], [ODD, "1"]]]
    assert ("title", ODD) in page.attributes
    assert ("data-order", "1.5") in page.attributes
    assert "onclick" not in dict(page.attributes)
    assert "http" not in text
    assert {key for key, _ in page.attributes} & {"srcset", "action"} == set()
    assert [value for key, value in page.attributes if key == "src"] == [
        "data:image/png;base64,MQ=="
    ]
    assert ("alt", ODD) in page.attributes
    assert [value for key, value in page.attributes if key == "href"] == ["data:,"]
    assert "@import" not in text


def test_narrow_terminal_cuts_no_command() -> None:
    file = io.StringIO()
    command = "python -m src.train " + "x" * 300
    console = Console(file=file, width=40, force_terminal=True, color_system=None)
    show([Section("s", code=[command])], console)
    assert command in file.getvalue()


def test_paired_section(tmp_path: Path) -> None:
    for seed, (joint, pooled) in enumerate([(50, 80), (52, 85)]):
        run = tmp_path / "e" / f"split1_seed{seed}"
        write_stage(run / "joint", joint)
        write_stage(run / "joint_pooled", pooled)
    write_stage(tmp_path / "e" / "split1_seed7" / "joint", 1)
    console = Console(file=io.StringIO())
    sections = make_report([str(tmp_path)], str(tmp_path / "r"), "e joint", console)
    assert [[cell.text for cell in row] for row in sections[1].rows] == [
        [
            *("e joint_pooled", "e joint", "2", "+30.0", "+31.5", "+33.0"),
            *("1/0 +30.0, 1/1 +33.0", "in one of the two only: 1/7"),
        ]
    ]


def test_nothing_finished_tells_what_to_run(tmp_path: Path) -> None:
    rows = table_of(tmp_path)
    assert {row["runs"] for name, row in rows.items() if name == "ST-ResNet"} == {"not run"}


@pytest.mark.slow
def test_real_run(finished_run: Path, tmp_path: Path) -> None:
    """All stages, late fusion and the classifiers of the joint nets, as the run has them."""
    output = tmp_path / "report"
    make_report([str(finished_run)], str(output), "late_fusion", Console(file=io.StringIO()))
    with (finished_run / "results.csv").open(newline="") as file:
        expected = {row["name"]: row for row in csv.DictReader(file)}
    with (output / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(expected) == 9
    for row in rows:
        which = "" if row["classifier"] == "all" else f": {row['classifier']} classifier"
        stage = "late fusion of both" if row["stage"] == "late_fusion" else row["stage"]
        name = stage + which
        for number in ("top1", "top5", "mean_class", "videos"):
            assert float(row[number]) == pytest.approx(float(expected[name][number]))
        assert (row["experiment"], row["dataset"]) == ("st_resnet_two_movers", "two_movers")
        assert row["project_version"]
        assert "mean of logits" in row["protocol"]
    page = Page((output / "report.html").read_text())
    assert [row[0] for row in page.tables[1][1:]] == [
        f"st_resnet_two_movers {stage}"
        for stage in ("appearance", "motion", "joint", "joint_pooled")
    ]
