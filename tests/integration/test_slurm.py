"""The sbatch script on a SLURM of two virtual nodes, which the test starts and ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import launchers.slurm
from arcticseg.run.folder import CHECKPOINTS, METRICS
from tests.training import SLOW, UNET, empty_config, lines, overrides

SCRIPT = Path(launchers.slurm.__file__).parent / "train.sbatch"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="SLURM is not installed: apt-get install slurm-wlm"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons are started by root only"),
]

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a SLURM with the nodes n1 and n2, one CPU each."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=socket.gethostname(), ports=ports))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
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
        nodes = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=environment, capture_output=True, text=True)
        return nodes.stdout.split() == ["idle", "2"]

    try:
        wait_until(idle, 60, "SLURM does not start")
        yield environment
    finally:
        subprocess.run(["scancel", "--user", "root"], env=environment, capture_output=True)
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=60)


def submit(slurm: dict[str, str], folder: Path, *arguments: str) -> str:
    """Start the script on two nodes, a rank each; the job's number."""
    options = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", f"--output={folder}/job.log"]
    command = ["sbatch", "--parsable", f"--chdir={folder}", *options, str(SCRIPT), *arguments]
    return subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout.strip()


def state(slurm: dict[str, str], job: str) -> dict[str, str]:
    """What SLURM says of a job."""
    said = subprocess.run(
        ["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True, check=True
    ).stdout
    return dict(word.split("=", 1) for word in said.split() if "=" in word)


def arguments(folder: Path, shards: Path, steps: int) -> list[str]:
    """Arguments of a tiny training whose steps take 0.1 s and longer."""
    settings = UNET | {"steps": steps, "hooks": "[slow]"}
    return ["--import", str(SLOW), "--config", empty_config(folder), *overrides(shards, folder / "run", settings)]


def wait_for_end(slurm: dict[str, str], job: str, folder: Path) -> dict[str, str]:
    """Wait until a job has completed; what SLURM says of it."""
    wait_until(lambda: state(slurm, job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), 600, "job hangs")
    ended = state(slurm, job)
    assert ended["JobState"] == "COMPLETED", (folder / "job.log").read_text()
    return ended


def test_trains_on_two_nodes(slurm: dict[str, str], tiny_shards: Path, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, *arguments(tmp_path, tiny_shards, 4))
    wait_for_end(slurm, job, tmp_path)
    assert [line["step"] for line in lines(tmp_path / "run", "train")] == [1, 2, 3, 4]
    (checkpoint,) = (tmp_path / "run" / CHECKPOINTS).glob("step-*")
    # Two ranks have written.
    assert {"model-00000.safetensors", "model-00001.safetensors"} <= {path.name for path in checkpoint.iterdir()}


def test_a_signal_before_the_time_limit_checkpoints_and_queues_again(
    slurm: dict[str, str], tiny_shards: Path, tmp_path: Path
) -> None:
    steps = 60
    job = submit(slurm, tmp_path, *arguments(tmp_path, tiny_shards, steps))
    metrics = tmp_path / "run" / METRICS

    def trains() -> bool:
        assert state(slurm, job)["JobState"] in ("PENDING", "RUNNING"), (tmp_path / "job.log").read_text()
        return metrics.exists() and bool(metrics.read_text())

    wait_until(trains, 300, "training does not start")
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=slurm, check=True)
    wait_until(lambda: state(slurm, job)["JobState"] == "PENDING", 120, "job is not queued again")
    stopped_at = len(lines(tmp_path / "run", "train"))
    assert stopped_at < steps
    assert (tmp_path / "run" / CHECKPOINTS / "last").read_text().strip() == f"step-{stopped_at:08d}"
    # SLURM would let it wait for two minutes. Not at once, though: in the second in which a node has revoked the job's
    # old credential it takes a new one for the old.
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+10"], env=slurm, check=True)
    assert wait_for_end(slurm, job, tmp_path)["Restarts"] == "1"
    assert [line["step"] for line in lines(tmp_path / "run", "train")] == list(range(1, steps + 1))
