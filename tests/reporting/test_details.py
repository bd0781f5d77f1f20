"""What the page shows beside the tables, in a real browser where there is one."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from src.evaluation.samples import load_samples
from src.evaluation.scores import VideoScores, video_accuracies
from src.reporting.collect import collect
from src.reporting.details import details, read_curves
from src.reporting.groups import group_runs
from src.reporting.report import make_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
STAGES = ("appearance", "motion", "late_fusion", "joint", "joint_pooled")
# Appended to the page: opens everything, sorts the first table by its first column, and tells.
PROBE = """
<script>
document.querySelectorAll("details").forEach((one) => { one.open = true; });
const table = document.querySelector("tbody");
const first = () => [...table.rows].map((row) => row.cells[0].innerText);
const before = first();
document.querySelector("th button").click();
window.addEventListener("load", () => {
  const images = [...document.images];
  const told = { sizes: images.map((i) => i.naturalWidth), before, after: first(),
    wide: document.documentElement.scrollWidth > window.innerWidth,
    loaded: performance.getEntriesByType("resource").map((one) => one.name)
      .filter((name) => !name.startsWith("data:")) };
  const pre = document.createElement("pre");
  pre.id = "told";
  pre.textContent = JSON.stringify(told);
  document.body.append(pre);
});
</script>
"""


@pytest.fixture(scope="module")
def page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report")
    make_report([str(finished_run)], str(output), console=Console(quiet=True))
    return output / "report.html"


@pytest.mark.slow
def test_every_row_has_its_curves_classes_confusions_and_videos(
    page: Path, finished_run: Path
) -> None:
    text = page.read_text(encoding="utf-8")
    sections = dict(re.findall(r"<details>\n<summary>(.*?)</summary>(.*?)</details>", text, re.S))
    titles = [f"st_resnet_two_movers {stage}: split 1, seed 0" for stage in STAGES]
    assert list(sections) == titles
    for stage, section in zip(STAGES, sections.values(), strict=True):
        svgs = section.count("data:image/svg+xml")
        assert svgs == (2 if stage == "late_fusion" else 3)  # it was not trained: no curves
        samples = load_samples(finished_run / stage / "samples")
        assert section.count("data:image/jpeg") == len(samples)
        assert all(sample.video in section for sample in samples)
    late = sections[titles[2]]
    changed = re.search(r"against motion alone: (\d+) videos corrected, (\d+) broken", late)
    assert changed is not None
    top1 = {
        stage: video_accuracies(VideoScores.load(finished_run / stage / "scores.csv")).top1
        for stage in ("motion", "joint")
    }
    said = re.search(r"top-1 (\S+) % of 8 videos", late)
    assert said is not None
    gained = 100 * (int(changed[1]) - int(changed[2])) / 8
    assert float(said[1]) - top1["motion"] == pytest.approx(gained, abs=0.05)


def test_rows_beyond_the_number_are_named(finished_run: Path) -> None:
    sections = details(group_runs(collect([str(finished_run)])[0]), 1)
    assert [section.title for section in sections] == [
        "Trainings",
        "st_resnet_two_movers appearance: split 1, seed 0",
        "Without details",
    ]
    assert "st_resnet_two_movers joint" in sections[-1].lines


@pytest.mark.slow
def test_lost_files_leave_the_rest(finished_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    shutil.rmtree(copy / "joint" / "samples")
    shutil.rmtree(copy / "joint" / "csv")
    (copy / "motion" / "samples" / "1.jpg").unlink()
    (copy / "appearance" / "scores.csv").unlink()
    make_report([str(copy)], str(tmp_path), console=Console(quiet=True))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "scores.csv is not a file of video scores" in text
    assert text.count("data:image/jpeg") == 7 + 8  # of motion and joint_pooled


def test_only_pictures_of_the_run_get_into_the_page(finished_run: Path, tmp_path: Path) -> None:
    """A link leads anywhere, and a file may be called as it likes."""
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    samples = copy / "motion" / "samples"
    shutil.move(samples / "1.jpg", tmp_path / "1.jpg")
    (samples / "1.jpg").symlink_to(tmp_path / "1.jpg")
    (samples / "2.jpg").write_text("root:x:0:0")
    (samples / "3.jpg").write_bytes((samples / "4.jpg").read_bytes() + bytes(2**20))
    (section,) = details(group_runs(collect([str(copy / "motion")])[0]), 1)[1:]
    assert sum(picture.kind == "image/jpeg" for picture in section.pictures) == 5


def test_curves_of_a_stage_that_went_on_are_those_of_its_last_files(tmp_path: Path) -> None:
    def write(version: str, text: str) -> None:
        file = tmp_path / "csv" / version / "metrics.csv"
        file.parent.mkdir(parents=True)
        file.write_text(text)

    write("version_0", "epoch,step,val/loss\n0,1,3.0\n1,2,2.0\n,3,9\n")
    write("version_2", "epoch,val/loss\n1,1.5\n")
    write("version_10", "epoch,val/loss\n2,1.0\n2,\n3,nan\n")
    write("version_11", "\0broken")
    (curve,) = read_curves(tmp_path, ["val/loss", "train/loss_epoch"], 1).values()
    assert list(curve.items()) == [(1, 3.0), (2, 1.5), (3, 1.0)]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_shows_the_page_without_loading_anything(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>")
    probed = tmp_path / "probed.html"
    probed.write_text(text, encoding="utf-8")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    flags = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'b'}",
    ]
    command = [str(BROWSER), *flags, *root, "--dump-dom"]
    done = subprocess.run([*command, probed.as_uri()], capture_output=True, text=True, timeout=120)
    answer = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.S)
    assert answer is not None, done.stderr[-2000:]
    told = json.loads(answer[1])
    assert len(told["sizes"]) == text.count("<img ")
    assert all(size > 0 for size in told["sizes"])
    assert told["after"] == sorted(told["before"])
    assert told["before"] != told["after"]
    assert told["loaded"] == []
    assert not told["wide"]
