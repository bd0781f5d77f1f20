"""SLURM on this machine: one node of two CPUs, all of its files in one folder."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd")
SYSTEM = "/usr/sbin:/sbin"  # where daemons are, which a user's PATH may lack
NODE = "localhost"  # its name is where processes meet: one that every machine can look up

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}({address})
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# cred_expire is also how long a requeued job waits, two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={node} NodeAddr={address} NodeHostname={host} CPUs=2 State=UNKNOWN
PartitionName=low Nodes={node} Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=60
PartitionName=high Nodes={node} PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


def missing() -> str | None:
    """Why SLURM cannot be started here, None if it can."""
    absent = [name for name in (*PROGRAMS, "srun") if shutil.which(name, path=_path()) is None]
    if absent:
        return f"SLURM is not installed here: no {', '.join(absent)}"
    return None if os.geteuid() == 0 else "slurmd is for root"


@contextmanager
def slurm(folder: Path) -> Iterator[Mapping[str, str]]:
    """Run munged, slurmctld and slurmd in the foreground of this process.

    Args:
        folder: empty; holds configuration, state and logs.

    Yields:
        The environment in which sbatch, srun and the like talk to it.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            node=NODE,
            host=socket.gethostname(),
            address="127.0.0.1",
            user="root",
            folder=folder,
            controller_port=_free_port(),
            node_port=_free_port(),
        )
    )
    # Jobs get the environment of whoever queues them: not that of a job around this one.
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    environment = outside | {"SLURM_CONF": str(configuration), "PATH": _path()}
    munged = ["munged", "--foreground", "--force", "--num-threads=2"]
    munged += [f"--{what}-file={folder}/munge.{what}" for what in ("key", "log", "pid", "seed")]
    with ExitStack() as running:
        for command in (
            [*munged, f"--socket={folder}/munge.socket"],
            ["slurmctld", "-D", "-i", "-f", str(configuration)],
            ["slurmd", "-D", "-f", str(configuration), "-N", NODE],
        ):
            running.enter_context(_daemon(command, environment, folder))
        running.callback(_end_jobs, environment)
        _wait_until_idle(environment, folder)
        yield environment


def ask(environment: Mapping[str, str], *command: str) -> str:
    """What one of SLURM's commands prints."""
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return run.stdout.strip()


@contextmanager
def _daemon(command: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended: {(folder / f'{command[0]}.out').read_text()}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(environment: Mapping[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while ask(environment, "sinfo", "--noheader", "--format=%T", "--partition=low") != "idle":
        if time.monotonic() > deadline:
            raise RuntimeError(f"the node does not come up: {folder}/slurmctld.log, slurmd.log")
        time.sleep(0.2)


def _end_jobs(environment: Mapping[str, str]) -> None:
    """Let no job outlive its daemons."""
    ask(environment, "scancel", "--user=root", "--signal=KILL", "--full")
    ask(environment, "scancel", "--user=root")
    deadline = time.monotonic() + 30
    while ask(environment, "squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.2)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{SYSTEM}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
