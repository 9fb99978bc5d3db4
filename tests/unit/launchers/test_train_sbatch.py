"""The sbatch scripts against stand-ins of `srun` and `scontrol`; with a real SLURM see tests/integration."""

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

SCRIPTS = Path(launchers.slurm.__file__).parent
SCRIPT, JOB = (SCRIPTS / f"{name}.sbatch" for name in ("train", "job"))

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
echo "scontrol $*"
exit "${REQUEUE_STATUS:-0}"
"""
PYTHON = """#!/bin/bash
echo "at ${MASTER_ADDR:-}:${MASTER_PORT:-}"
for argument in "$@"; do echo "argument $argument"; done
trap 'sleep 0.3; exit 3' USR1
trap 'exit 143' TERM
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


def run(environment: dict[str, str], *arguments: str, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_all_scripts_are_known() -> None:
    assert sorted(SCRIPTS.glob("*.sbatch")) == [JOB, SCRIPT]


@pytest.mark.parametrize("script", [SCRIPT, JOB], ids=lambda path: path.name)
def test_is_sound_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("bash -n reads it; shellcheck is not installed: apt-get install shellcheck")
    checked = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", [SCRIPT, JOB], ids=lambda path: path.name)
def test_names_no_cluster_and_no_user(script: Path) -> None:
    directives = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(), re.MULTILINE)
    tasks = "ntasks-per-node" if script == SCRIPT else "ntasks"
    assert set(directives) == {"job-name", "nodes", tasks, "output", "open-mode", "requeue", "signal"}


def arguments(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the training, or the command, was given."""
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("argument ") for line in done.stdout.splitlines() if line.startswith("argument ")]


@pytest.mark.parametrize(
    ("variables", "more"),
    [
        ({}, []),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, ["--part", "2/4"]),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1", "ARCTICSEG_PARTS": "4"}, ["--part", "2/4"]),
        ({"SLURM_RESTART_COUNT": "2"}, []),
    ],
)
def test_a_command_gets_its_part(variables: dict[str, str], more: list[str], environment: dict[str, str]) -> None:
    done = run(environment | variables, "shards", "build", "my scenes", script=JOB)
    assert arguments(done) == ["-m", "launchers.cli", "shards", "build", "my scenes", *more]


def test_a_sweep_that_was_queued_again_resumes(environment: dict[str, str]) -> None:
    done = run(environment | {"SLURM_RESTART_COUNT": "1"}, "sweep", "study", script=JOB)
    assert arguments(done) == ["-m", "launchers.cli", "sweep", "study", "--resume"]


def test_a_sweep_that_is_stopped_leaves_its_trainings_time(environment: dict[str, str], tmp_path: Path) -> None:
    environment |= {"TRAIN": "long", "ARCTICSEG_GRACE": "3"}
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(
            ["bash", str(JOB), "sweep"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    until = time.monotonic() + 30
    while "argument sweep" not in (tmp_path / "log").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.3)
    began = time.monotonic()
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(30) == 143
    assert time.monotonic() - began >= 3
    assert "scontrol requeue 20007" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("script", "module"), [(SCRIPT, "launchers.train"), (JOB, "launchers.cli")])
def test_a_container_takes_the_place_of_python(
    script: Path, module: str, environment: dict[str, str], tmp_path: Path
) -> None:
    apptainer = tmp_path / "apptainer"
    apptainer.write_text('#!/bin/bash\nfor argument in "$@"; do echo "argument $argument"; done\n')
    apptainer.chmod(0o755)
    done = run(environment | {"ARCTICSEG_CONTAINER": "/shared/my image.sif"}, "--config", "a.yaml", script=script)
    image = ["exec", "--nv", "/shared/my image.sif", "python3"]
    assert arguments(done) == [*image, "-m", module, "--config", "a.yaml"]


def test_arguments_reach_the_training_as_they_are(environment: dict[str, str]) -> None:
    done = run(environment | {"SLURM_CPUS_PER_TASK": "8"}, "--config", "a.yaml", "data.channels=[hh, hv]")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("argument")] == [
        f"argument {text}" for text in ("-m", "launchers.train", "--config", "a.yaml", "data.channels=[hh, hv]")
    ]
    # Where they meet is known to the tasks themselves.
    assert "at :" in lines
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


@pytest.mark.parametrize(("script", "module"), [(SCRIPT, "launchers.train"), (JOB, "launchers.cli")])
@pytest.mark.parametrize(("requeue", "status"), [("0", 0), ("1", 3)])
def test_a_signal_stops_the_training_and_queues_the_job_again(
    requeue: str, status: int, script: Path, module: str, environment: dict[str, str], tmp_path: Path
) -> None:
    environment |= {"TRAIN": "long", "REQUEUE_STATUS": requeue}
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(["bash", str(script)], env=environment, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + 30
    while f"argument {module}" not in (tmp_path / "log").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(job.pid, signal.SIGUSR1)
    # That of the command, which a signal has ended, where the job could be queued again.
    assert job.wait(30) == (143 if script == JOB and not status else status)
    text = (tmp_path / "log").read_text()
    assert "scontrol requeue 20007" in text
    assert ("cannot be queued again" in text) == bool(status)
