"""The sbatch script against stand-ins of `srun` and `scontrol`; with a real SLURM see tests/integration."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import launchers.slurm

SCRIPT = Path(launchers.slurm.__file__).parent / "train.sbatch"

# As srun does: run the command in a session of its own and hand a signal on to all of its processes.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "option $1"; shift; done
setsid "$@" &
task=$!
trap 'kill -USR1 -- -"$task"' USR1
while kill -0 "$task" 2>/dev/null; do wait "$task"; done
wait "$task"
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then printf 'n07\\nn08\\n'; else echo "scontrol $*"; exit "${REQUEUE_STATUS:-0}"; fi
"""
PYTHON = """#!/bin/bash
echo "at $MASTER_ADDR:$MASTER_PORT"
for argument in "$@"; do echo "argument $argument"; done
trap 'sleep 0.3; exit 3' USR1
while [[ ${TRAIN:-} == long ]]; do sleep 0.1; done
exit "${TRAIN_STATUS:-0}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python3", PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "ARCTICSEG_", "MASTER_"))
    }
    return kept | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "20007",
        "SLURM_JOB_NODELIST": "n[07-08]",
    }


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_is_sound_bash() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_names_no_cluster_and_no_user() -> None:
    directives = re.findall(r"^#SBATCH --([a-z-]+)", SCRIPT.read_text(), re.MULTILINE)
    assert set(directives) == {"job-name", "nodes", "ntasks-per-node", "output", "open-mode", "requeue", "signal"}


def test_arguments_reach_the_training_as_they_are(environment: dict[str, str]) -> None:
    done = run(environment | {"SLURM_CPUS_PER_TASK": "8"}, "--config", "a.yaml", "data.channels=[hh, hv]")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("argument")] == [
        f"argument {text}" for text in ("-m", "launchers.train", "--config", "a.yaml", "data.channels=[hh, hv]")
    ]
    assert "at n07:10007" in lines
    assert "option --cpus-per-task=8" in lines
    assert "option --kill-on-bad-exit=1" in lines


def test_surroundings_can_be_set(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "setup").write_text('export MASTER_ADDR=elsewhere "TRAIN_STATUS=0$unset"\n')
    more = {
        "ARCTICSEG_SETUP": str(tmp_path / "setup"),
        "MASTER_PORT": "1234",
        "ARCTICSEG_PYTHON": str(tmp_path / "python3"),
    }
    assert "at elsewhere:1234" in run(environment | more).stdout.splitlines()


def test_a_job_that_was_queued_again_resumes(environment: dict[str, str]) -> None:
    assert "argument --resume" not in run(environment | {"SLURM_RESTART_COUNT": "0"}).stdout
    assert "argument --resume" in run(environment | {"SLURM_RESTART_COUNT": "1"}).stdout


def test_failure_is_passed_on_and_not_repeated(environment: dict[str, str]) -> None:
    done = run(environment | {"TRAIN_STATUS": "2"})
    assert (done.returncode, "requeue" in done.stdout) == (2, False)


def test_gpus_hidden_from_tasks_are_refused(environment: dict[str, str]) -> None:
    done = run(environment | {"SLURM_GPUS_PER_TASK": "1"})
    assert done.returncode == 2
    assert "use --gpus-per-node" in done.stderr


@pytest.mark.parametrize(("requeue", "status"), [("0", 0), ("1", 3)])
def test_a_signal_stops_the_training_and_queues_the_job_again(
    requeue: str, status: int, environment: dict[str, str], tmp_path: Path
) -> None:
    environment |= {"TRAIN": "long", "REQUEUE_STATUS": requeue}
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(["bash", str(SCRIPT)], env=environment, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + 30
    while "argument launchers.train" not in (tmp_path / "log").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(30) == status
    text = (tmp_path / "log").read_text()
    assert "scontrol requeue 20007" in text
    assert ("--resume" in text) == bool(status)
