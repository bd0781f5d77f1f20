"""Searches by Optuna: trials are jobs, bad ones end early, and a stopped search continues."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from rich.console import Console

from hydra_plugins.st_resnet.optuna_sweeper import OptunaSweeper
from src import train
from src.reporting.collect import collect
from src.reporting.report import make_report
from src.training.search import PRUNED, open_study
from src.utils.errors import UserError
from tests.conftest import TINY
from tests.processes import Command

optuna = pytest.importorskip("optuna")
TrialState = optuna.trial.TrialState


@pytest.mark.slow
def test_trials_on_two_processes_end_early_or_are_told_apart_by_their_results(
    tmp_path: Path,
) -> None:
    """Of one epoch each is complete; of two each is pruned, as no accuracy reaches 200 %."""
    out = tmp_path / "out"
    command = ["-m", "experiment=appearance_two_movers"]
    command += [one for one in TINY if "max_epochs" not in one]
    command += ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    command += ["stages.appearance.effective_batch_size=8", "stages.appearance.data.batch_size=4"]
    command += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]
    command += ["hydra.sweeper.sampler=BruteForceSampler", "hydra.sweeper.pruner=ThresholdPruner"]
    command += ["hydra.sweeper.pruner_options={lower:2}"]
    command += ["trainer.max_epochs=choice(1,2)", "data.val_fraction=0.5", "data.test.part=val"]
    command += [f"data.dataset.root={tmp_path / 'data'}", f"paths.output_dir={out}"]
    search = Command("src.train", command, tmp_path)
    assert search.wait() == 0, search.errors
    (journal,) = (out / "sweeps").glob("*/*.study")
    by_passes = {int(one.params["trainer.max_epochs"]): one for one in open_study(journal).trials}
    assert by_passes[1].state == TrialState.COMPLETE
    assert by_passes[2].state == TrialState.PRUNED
    assert list(by_passes[2].intermediate_values) == [1]
    (record,), _ = collect([str(out / "sweeps")])
    assert by_passes[1].value == record.accuracy.top1
    assert record.accuracy.videos == 8  # of the training list's 16
    assert record.protocol.endswith("; on the validation part (50 % of the training list)")
    assert record.partial  # no number of the dataset's
    found: Any = OmegaConf.load(journal.with_name("optimization_results.yaml"))
    assert found["best_params"] == {"trainer.max_epochs": "1"}

    with journal.with_name("sweep.csv").open(newline="") as table:
        states = {row["trainer.max_epochs"]: row["state"] for row in csv.DictReader(table)}
    assert states == {"1": "done", "2": "pruned"}

    sections = make_report([str(out)], str(tmp_path / "report"), console=Console(quiet=True))
    (section,) = [one for one in sections if one.title.startswith("Search")]
    rows = {row[-1].text: [cell.text for cell in row] for row in section.rows}
    assert rows["1"][1:4] == [f"{record.accuracy.top1:.1f}", "complete", "1"]
    assert rows["2"][1:4] == ["", "pruned after epoch 1", "1"]
    again = section.code[0].split()
    assert "hydra.mode=RUN" in again
    assert "trainer.max_epochs=1" in again
    assert not any(one.startswith("hydra.sweeper") for one in again)
    (left_out,) = [one for one in sections if one.title == "Skipped"]
    assert "a trial of a search, which may have pruned it" in left_out.lines[0]
    assert "trial=" not in left_out.lines[0]


Job = Callable[[dict[str, str]], float]


class Launcher:
    """Runs a function of the overrides in the place of jobs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.batches: list[list[dict[str, str]]] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """What each job gives or raises."""
        batch = [dict(one.split("=", 1) for one in job) for job in jobs]
        self.batches.append(batch)
        return [self._run(job) for job in batch]

    def _run(self, job: dict[str, str]) -> JobReturn:
        done = JobReturn()
        try:
            done.return_value, done.status = self.job(job), JobStatus.COMPLETED
        except Exception as error:
            done.return_value, done.status = error, JobStatus.FAILED
        return done


def search(
    folder: Path, job: Job, *arguments: str, **options: Any
) -> tuple[Any, list[list[dict[str, str]]]]:
    """Search with jobs that are a function; the study and the launched batches."""
    defaults: dict[str, Any] = {
        "n_trials": 4,
        "n_jobs": 1,
        "max_failures": 1,
        "direction": "maximize",
    }
    defaults |= {"seed": 0, "sampler": "RandomSampler", "pruner": "NopPruner"}
    sweeper = OptunaSweeper(str(folder / "x.study"), **(defaults | options))
    launcher: Any = Launcher(job)
    sweeper.launcher = launcher
    sweeper.config_loader = ConfigLoaderImpl(create_config_search_path(None))
    sweeper.sweep(list(arguments))
    return open_study(folder / "x.study"), launcher.batches


def parabola(job: dict[str, str]) -> float:
    return -((float(job["x"]) - 0.3) ** 2)


def test_values_are_drawn_from_the_grammar_of_hydra(tmp_path: Path) -> None:
    space = ("x=interval(0.0,1.0)", "n=int(interval(1,3))", "l=choice([1,5],[5,15])", "fixed=a")
    rate = {"lr": "tag(log,interval(1e-4,1e-1))"}
    study, batches = search(tmp_path, parabola, *space, params=rate, n_jobs=3)
    assert [len(batch) for batch in batches] == [3, 1]
    jobs = [job for batch in batches for job in batch]
    for job in jobs:
        assert job["fixed"] == "a"
        assert job["l"] in ("[1,5]", "[5,15]")
        assert job["n"] in ("1", "2", "3")
        assert 0 <= float(job["x"]) <= 1
        assert 1e-4 <= float(job["lr"]) <= 1e-1
    assert study.best_value == pytest.approx(max(parabola(job) for job in jobs), abs=1e-3)
    assert [f"number:{n}}}" in job["trial"] for n, job in enumerate(jobs)] == [True] * 4


def test_a_stopped_search_goes_on_with_the_trial_that_was_under_way(tmp_path: Path) -> None:
    started: list[str] = []

    def stops(job: dict[str, str]) -> float:
        started.append(job["x"])
        if len(started) == 3:
            raise KeyboardInterrupt
        return parabola(job)

    space = "x=interval(0.0,1.0)"
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, stops, space)
    study, batches = search(tmp_path, parabola, space, "trainer.devices=2")
    assert batches[0][0]["x"] == started[2]
    assert len(batches) == 2
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len({trial.params["x"] for trial in complete}) == 4
    _, batches = search(tmp_path, parabola, space)
    assert batches == []  # all four are there


def test_a_trial_fails_alone_but_many_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def explodes(job: dict[str, str]) -> float:
        if "number:1}" in job["trial"]:
            raise UserError("the loss has exploded")
        return parabola(job)

    study, batches = search(tmp_path, explodes, "x=interval(0.0,1.0)")
    assert len(batches) == 5  # one more for the one that failed
    assert [trial.number for trial in study.get_trials(states=(TrialState.FAIL,))] == [1]
    assert "trial 1 failed: the loss has exploded" in caplog.text

    def mistaken(job: dict[str, str]) -> float:
        raise UserError("there is no such key")

    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="no such key"):
        search(tmp_path / "other", mistaken, "x=interval(0.0,1.0)")


def test_a_search_of_which_all_trials_are_pruned_has_no_best(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def pruned(job: dict[str, str]) -> float:
        study = open_study(tmp_path / "x.study")
        trial = study.get_trials(deepcopy=False)[-1]
        optuna.trial.Trial(study, trial._trial_id).set_user_attr(PRUNED, 1)
        return math.nan

    study, batches = search(tmp_path, pruned, "x=interval(0.0,1.0)", n_trials=2)
    assert len(batches) == 2
    assert {trial.state for trial in study.trials} == {TrialState.PRUNED}
    assert "all trials were pruned" in caplog.text
    sections = make_report([str(tmp_path)], str(tmp_path), console=Console(quiet=True))
    (section,) = [one for one in sections if one.title.startswith("Search")]
    assert [row[2].text for row in section.rows] == ["pruned after epoch 1"] * 2
    assert not section.code


def test_all_combinations_end_a_search(tmp_path: Path) -> None:
    space = ("x=choice(0.1,0.2)", "y=choice(1,2)")
    study, batches = search(tmp_path, parabola, *space, sampler="BruteForceSampler", n_trials=9)
    assert len({(job["x"], job["y"]) for (job,) in batches}) == len(batches) == 4
    assert study.best_params["x"] == "0.2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x=interval(0.0,1.0)", "other=1"), "is a search with other arguments"),
        (("x=choice(1,2,3)",), "is a search in another space"),
        (("x=1",), "nothing is searched: add sweep=search"),
    ],
)
def test_another_search_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    search(tmp_path, parabola, "x=choice(0.1,0.2)", n_trials=1)
    with pytest.raises(UserError, match=message):
        search(tmp_path, parabola, *arguments)


def test_a_search_in_each_of_many_processes_is_refused(
    call: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """torchrun's would draw values of their own."""
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "1")
    search = ["hydra/sweeper=optuna", "seed=choice(1,2)", f"paths.output_dir={tmp_path}"]
    assert call(train.main, "-m", *search) == 1
    assert "error: a search is one process" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.study"))


@pytest.mark.parametrize("more", [(), ("data.val_fraction=0.2",)])
def test_a_search_on_the_test_list_is_refused(
    call: Callable[..., int],
    more: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    search = ["hydra/sweeper=optuna", "seed=choice(1,2)", f"paths.output_dir={tmp_path}", *more]
    assert call(train.main, "-m", *search) == 1
    assert "error: a search would choose by the test list: give data.val" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*.study"))


@pytest.mark.slow
def test_a_file_that_is_no_search_leaves_the_report_whole(
    finished_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.study").write_text("no journal\n")
    runs = [str(finished_run), str(tmp_path)]
    sections = make_report(runs, str(tmp_path / "report"), console=Console(quiet=True))
    (section,) = [one for one in sections if one.title.startswith("Search")]
    assert "holds no study" in section.lines[0]
