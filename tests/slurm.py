"""A SLURM of two virtual nodes on this machine, which tests start and end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PARTITION, URGENT = "all", "urgent"

CONFIG = f"""
ClusterName=test
SlurmctldHost={{host}}(127.0.0.1)
SlurmctldPort={{ports[0]}}
AuthType=auth/none
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={{folder}}/state
SlurmdSpoolDir={{folder}}/spool-%n
SlurmctldPidFile={{folder}}/slurmctld.pid
SlurmdPidFile={{folder}}/slurmd-%n.pid
SlurmctldLogFile={{folder}}/slurmctld.log
SlurmdLogFile={{folder}}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={{host}} NodeAddr=127.0.0.1 Port={{ports[1]}} CPUs=1
NodeName=n2 NodeHostname={{host}} NodeAddr=127.0.0.1 Port={{ports[2]}} CPUs=1
PartitionName={PARTITION} Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName={URGENT} Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def missing() -> str | None:
    """What such a SLURM needs and this machine lacks; None: nothing."""
    if os.geteuid() != 0:
        return "root is needed to start SLURM's daemons"
    return "SLURM is not installed: apt-get install slurm-wlm" if shutil.which("slurmctld") is None else None


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


class Slurm:
    """Nodes n1 and n2, one CPU each.

    Attributes:
        environment: in which its commands find it.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def run(self, *command: str) -> str:
        """Run a command of SLURM, or of ours; what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, *words: str, folder: Path) -> str:
        """`arcticseg submit` in a folder, and the CPUs that there are; the job's number."""
        command = [sys.executable, "-m", "launchers.cli", "submit", *words, "--cpus", "1"]
        done = subprocess.run(command, env=self.environment, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """What SLURM says of a job."""
        said = self.run("scontrol", "show", "job", job)
        return dict(word.split("=", 1) for word in said.split() if "=" in word)

    def finish(self, jobs: Sequence[str], log: Callable[[], str], seconds: float = 600) -> None:
        """Wait until all jobs have completed."""

        def done() -> bool:
            states = {job: self.state(job)["JobState"] for job in jobs}
            bad = [job for job, state in states.items() if state in _ENDED[1:]]
            assert not bad, f"{states}\n{log()}"
            return set(states.values()) == {"COMPLETED"}

        wait_until(done, seconds, "jobs hang")

    def begin_again(self, job: str) -> None:
        """Let a job that was queued again begin soon: SLURM would let it wait for two minutes.

        Not at once, though: in the second in which a node has revoked the job's old credential it takes a new one for
        the old.
        """
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+10")


@contextlib.contextmanager
def slurm_in(folder: Path) -> Iterator[Slurm]:
    """Start SLURM with its files in a folder; end its jobs and daemons."""
    (folder / "state").mkdir(parents=True)
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=socket.gethostname(), ports=ports))
    kept = {name: value for name, value in os.environ.items() if not re.match("SLURM_|SBATCH_|ARCTICSEG_S", name)}
    environment = kept | {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "ARCTICSEG_PYTHON": sys.executable,
        # The virtual nodes' names are not those of hosts.
        "MASTER_ADDR": "127.0.0.1",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    daemons = [
        subprocess.Popen([*command, "-D"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"])
    ]

    def idle() -> bool:
        nodes = subprocess.run(
            ["sinfo", "-h", "-p", PARTITION, "-o", "%T %D"], env=environment, capture_output=True, text=True
        )
        return nodes.stdout.split() == ["idle", "2"]

    try:
        wait_until(idle, 60, "SLURM does not start")
        yield Slurm(environment)
    finally:
        subprocess.run(["scancel", "--user", "root"], env=environment, capture_output=True)
        with contextlib.suppress(AssertionError):
            wait_until(idle, 20, "jobs do not end")
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=60)
