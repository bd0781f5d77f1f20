"""Jobs of a real SLURM on this machine: started once, ended, queued again, finished."""

import csv
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from src.reporting.collect import collect
from tests.cluster.slurm import ask, missing, slurm
from tests.conftest import TINY
from tests.processes import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

ON_TWO = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
PASSES = 40
Environment = Mapping[str, str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**environment, "OMP_NUM_THREADS": "1"}


def train(folder: Path, *overrides: str, stages: tuple[str, ...] = ("appearance",)) -> list[str]:
    """The command that trains single streams, two clips on each of two devices in a step."""
    name = "appearance" if len(stages) == 1 else "two_stream"
    batches = [
        f"stages.{stage}.{key}"
        for stage in stages
        for key in ("effective_batch_size=8", "data.batch_size=4")
    ]
    return [
        *(sys.executable, "-m", "src.train", f"experiment={name}_two_movers", *TINY, *batches),
        *(f"data.dataset.root={folder / 'data'}", f"paths.output_dir={folder / 'outputs'}"),
        *overrides,
    ]


def run(cluster: Environment, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, env=cluster, capture_output=True, text=True, timeout=240, check=False
    )


ALONE = "#!/bin/bash\nexec {}\n"
TOGETHER = """#!/bin/bash
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
srun {} &
wait $!
"""


def queue(
    cluster: Environment, folder: Path, script: str, command: list[str], *options: str
) -> str:
    """Queue a script with a command in it; the number of the job."""
    file = folder / "job.sh"
    file.write_text(script.format(" ".join(f"'{word}'" for word in command)))
    output = ("--output", str(folder / "job.out"), "--open-mode=append")
    return ask(cluster, "sbatch", "--parsable", "--requeue", *options, *output, str(file))


def job(cluster: Environment, number: str) -> dict[str, str]:
    """What SLURM tells of a job."""
    told = ask(cluster, "scontrol", "--oneliner", "show", "job", number)
    return dict(re.findall(r"(\w+)=(\S*)", told))


def ended(cluster: Environment, number: str) -> bool:
    return job(cluster, number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


def preempt(cluster: Environment, checkpoint: Path) -> None:
    """Wait for a checkpoint, then take both CPUs for more important work."""
    wait_for(checkpoint.is_file)
    time.sleep(1)  # into some epoch or other
    ask(cluster, "srun", "--partition=high", "--ntasks=2", "true")


def check_trained_once(run_dir: Path, stage: str = "appearance") -> None:
    """One record, one log, and each test video scored once: the work of one group."""
    assert (run_dir / stage / "stage.json").is_file()
    with (run_dir / stage / "scores.csv").open() as file:
        videos = [row["video"] for row in csv.DictReader(file)]
    assert len(videos) == len(set(videos)) == 8


def check_passes(text: str, stage: str) -> None:
    """Each epoch once, but for one that may have ended between its line and its checkpoint."""
    told = [int(number) for number in re.findall(rf"{stage}: epoch (\d+)/{PASSES}", text)]
    assert sorted(set(told)) == list(range(1, PASSES + 1))
    assert len(told) <= PASSES + 1


@pytest.mark.parametrize(
    "start",
    [
        ["srun", "--ntasks=2"],
        ["salloc", "--ntasks=2", "srun"],
        ["srun", "--ntasks=1", "--cpus-per-task=2"],
    ],
    ids=["srun", "interactive", "one task"],
)
def test_tasks_train_together(cluster: Environment, start: list[str], tmp_path: Path) -> None:
    done = run(cluster, *start, *train(tmp_path, *ON_TWO))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("appearance │") == 1
    run_dir = tmp_path / "outputs" / "appearance_two_movers" / "split1_seed0"
    check_trained_once(run_dir)
    assert [path.name for path in run_dir.rglob("version_*")] == ["version_0"]
    assert done.stderr.count("epoch 1/1") + done.stdout.count("epoch 1/1") == 1


def test_a_script_without_srun_starts_its_processes_itself(
    cluster: Environment, tmp_path: Path
) -> None:
    number = queue(cluster, tmp_path, ALONE, train(tmp_path, *ON_TWO), "--ntasks=2")
    wait_for(lambda: ended(cluster, number))
    text = (tmp_path / "job.out").read_text()
    assert job(cluster, number)["JobState"] == "COMPLETED", text[-3000:]
    assert text.count("appearance │") == 1
    check_trained_once(tmp_path / "outputs" / "appearance_two_movers" / "split1_seed0")


def test_tasks_that_do_not_fit_the_trainer_are_refused(
    cluster: Environment, tmp_path: Path
) -> None:
    done = run(cluster, "srun", "--ntasks=2", *train(tmp_path, "trainer.accelerator=cpu"))
    assert done.returncode == 1
    assert "SLURM started 2 processes on each of 1 nodes, but trainer.devices is 1" in done.stderr
    assert not list(tmp_path.rglob("last.ckpt"))


SWEEP = (
    *ON_TWO,
    "hydra.mode=MULTIRUN",  # -m
    "hydra/launcher=slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.timeout_min=30",
)


def test_each_job_of_a_sweep_is_queued_and_trained_once(
    cluster: Environment, tmp_path: Path
) -> None:
    done = run(cluster, *train(tmp_path, "seed=3,4", *SWEEP))
    assert done.returncode == 0, done.stderr[-3000:]
    (sweeps,) = (tmp_path / "outputs" / "sweeps").iterdir()
    jobs = [path.name for path in sweeps.iterdir() if path.is_dir() and path.name != ".submitit"]
    assert sorted(jobs) == ["seed-3", "seed-4"]
    with (sweeps / "sweep.csv").open(newline="") as table:
        assert [(row["seed"], row["state"]) for row in csv.DictReader(table)] == [
            *(("3", "done"), ("4", "done"))
        ]
    records = sorted(collect([str(sweeps)])[0], key=lambda run: run.seed)
    assert [run.seed for run in records] == [3, 4]
    for record in records:
        check_trained_once(record.folder.parent)
    outputs = sorted(sweeps.glob(".submitit/*/*_log.out"))
    assert len(outputs) == 4  # two tasks of two jobs
    assert sum("appearance │" in path.read_text() for path in outputs) == 2


def test_a_mistake_in_a_queued_job_comes_back_as_one_line(
    cluster: Environment, tmp_path: Path
) -> None:
    done = run(cluster, *train(tmp_path, "data.flow_stack=7", *SWEEP))
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    assert "data.flow_stack=7" in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["preempted", "end of its time"])
def test_a_script_goes_on_from_its_last_pass(
    cluster: Environment, how: str, tmp_path: Path
) -> None:
    """Two stages, stopped in the second: the first is not trained again, no epoch is lost."""
    long = (f"trainer.max_epochs={PASSES}", f"stages.motion.max_epochs={PASSES}")
    short = "stages.appearance.max_epochs=1"
    command = train(tmp_path, *ON_TWO, *long, short, stages=("appearance", "motion"))
    number = queue(cluster, tmp_path, TOGETHER, command, "--ntasks=2", "--partition=low")
    run_dir = tmp_path / "outputs" / "two_stream_two_movers" / "split1_seed0"
    if how == "preempted":
        preempt(cluster, run_dir / "motion" / "last.ckpt")
    else:
        wait_for((run_dir / "motion" / "last.ckpt").is_file)
        ask(cluster, "scancel", "--batch", "--signal=USR1", number)  # as --signal=B:USR1 does
    wait_for(lambda: ended(cluster, number))
    text = (tmp_path / "job.out").read_text()
    assert job(cluster, number)["JobState"] == "COMPLETED", text[-3000:]
    assert job(cluster, number)["Restarts"] == "1"
    assert text.count("appearance: epoch 1/1") == 1
    assert text.count("stage appearance is finished") == 1
    assert text.count("stage motion resumes from") == 1
    check_passes(text, "motion")
    assert "Traceback" not in text
    for stage in ("appearance", "motion"):
        check_trained_once(run_dir, stage)


@pytest.mark.parametrize("how", ["preempted", "end of its time"])
def test_a_queued_job_goes_on_and_its_result_comes_back(
    cluster: Environment, how: str, tmp_path: Path
) -> None:
    """SLURM requeues what is preempted, submitit what comes to its end: once, not both."""
    long = (f"trainer.max_epochs={PASSES}", f"stages.appearance.max_epochs={PASSES}")
    command = train(tmp_path, "seed=5", *SWEEP, *long, "hydra.launcher.partition=low")
    sweeper = subprocess.Popen(
        command, env=cluster, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    sweeps = tmp_path / "outputs" / "sweeps"
    wait_for(lambda: list(sweeps.glob("*/*/appearance/last.ckpt")))
    (checkpoint,) = sweeps.glob("*/*/appearance/last.ckpt")
    number = ask(cluster, "squeue", "--noheader", "--format=%i")
    if how == "preempted":
        preempt(cluster, checkpoint)
    else:
        ask(cluster, "scancel", "--signal=USR2", number)
    _, errors = sweeper.communicate(timeout=240)
    assert sweeper.returncode == 0, errors[-3000:]
    assert job(cluster, number)["Restarts"] == "1"
    text = (checkpoint.parents[1] / "train.log").read_text()
    check_passes(text, "appearance")
    check_trained_once(checkpoint.parents[1])
