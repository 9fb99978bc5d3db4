"""`arcticseg submit` with a stand-in of sbatch; with a real SLURM see tests/integration/test_slurm.py."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from arcticseg.run.folder import METRICS, TRAINING, in_use
from launchers.cli import main
from launchers.status import DONE, USER_ERROR

# Notes its arguments, and answers as sbatch --parsable on a cluster of several does.
SBATCH = """#!/bin/bash
printf '%s\\n' "$@" > "$CALLS/$(($(ls "$CALLS" | wc -l) + 1))"
env > "$CALLS/../environment"
[[ -z ${REFUSES:-} ]] || { echo "sbatch: error: $REFUSES" >&2; exit 1; }
echo "$((70 + $(ls "$CALLS" | wc -l)));north"
"""
CONFIG = "steps: 3\ndata: {shards: shards}\nmodel: {encoder: {name: unet}}\nout: runs/a\n"
STUDY = "out: studies/s\ncommon: {steps: 2}\nfinetune: {u: {base: scratch_unet}}\n"

Answer = tuple[int, str, str]


@pytest.fixture
def submit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs `arcticseg submit` in a folder with scenes, shards, a config and a study."""
    for name in ("bin", "calls", "scenes", "shards"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    (tmp_path / "a.yaml").write_text(CONFIG)
    (tmp_path / "s.yaml").write_text(STUDY)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "ARCTICSEG_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Answer:
        status = main(["submit", *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def calls(folder: Path) -> list[list[str]]:
    """The arguments of each call of sbatch."""
    return [path.read_text().splitlines() for path in sorted((folder / "calls").iterdir())]


def directives(path: Path) -> dict[str, str]:
    """Option -> value, as a shell would read the lines for sbatch."""
    lines = [line.split(" ", 1)[1] for line in path.read_text().splitlines() if line.startswith("#SBATCH ")]
    shell = subprocess.run(["bash", "-c", f"printf '%s\\n' {' '.join(lines)}"], capture_output=True, text=True)
    pairs = [line.removeprefix("--").partition("=") for line in shell.stdout.splitlines()]
    assert len({key for key, _, _ in pairs}) == len(pairs), "an option stands twice"
    return {key: value for key, _, value in pairs}


def sound(path: Path) -> None:
    """See that a script is one that bash reads, and shellcheck where it is installed."""
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def arguments(path: Path, tmp_path: Path, **environment: str) -> list[str]:
    """What the script starts: the words behind the interpreter's `-m`, told by one in its place."""
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    teller = tmp_path / "bin" / "teller"
    teller.write_text(
        f'#!/bin/bash\nexec {sys.executable} -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"\n'
    )
    for program in (teller, tmp_path / "bin" / "srun"):
        program.chmod(0o755)
    told = path.read_text().replace(f"export ARCTICSEG_PYTHON={sys.executable}", f"export ARCTICSEG_PYTHON={teller}")
    assert str(teller) in told
    known = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    done = subprocess.run(["bash", "-c", told], env=known | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words: list[str] = json.loads(done.stdout)
    return words


def test_a_training_is_submitted_from_a_script_beside_its_run(submit: Callable[..., Answer], tmp_path: Path) -> None:
    words = ["a.yaml", "data.channels=[hh, hv]", "out=runs/my run", "--after", "12,13", "--nodes", "2", "--gpus", "4"]
    words += ["--cpus=8", "--time=1:00:00", "--account=ice", "--partition=gpu", "--sbatch=--qos=low --comment='a b'"]
    status, out, err = submit(*words, "--resume")
    assert (status, out) == (DONE, "71\n"), err
    path = tmp_path / "runs" / "my run.train.sbatch"
    assert f"{path}: job 71" in err
    assert calls(tmp_path) == [["--parsable", "--dependency=afterok:12:13", "--kill-on-invalid-dep=yes", str(path)]]
    sound(path)
    assert directives(path) == {
        "open-mode": "append",
        "requeue": "",
        "signal": "B:USR1@120",
        "job-name": "my run",
        "chdir": str(tmp_path),
        "output": f"{tmp_path}/runs/my run.train-%j.log",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
        "cpus-per-task": "8",
        "time": "1:00:00",
        "account": "ice",
        "partition": "gpu",
        "qos": "low",
        "comment": "a b",
    }
    training = ["-m", "launchers.train", "--config", "a.yaml", "data.channels=[hh, hv]", "out=runs/my run", "--resume"]
    assert arguments(path, tmp_path) == training


def test_parts_are_an_array_and_a_job_that_follows(submit: Callable[..., Answer], tmp_path: Path) -> None:
    words = ("build", "scenes", "--out", "new shards", "--factors", "4", "--parts", "3", "--cpus", "2")
    status, out, err = submit(*words, "--after", "9")
    assert (status, out) == (DONE, "72\n"), err
    parts, whole = (tmp_path / f"new shards.{kind}.sbatch" for kind in ("build-parts", "build"))
    # What a part has lost is built by the job that puts them together: it begins however the parts end, unless what
    # they wait for has failed.
    assert calls(tmp_path) == [
        ["--parsable", "--dependency=afterok:9", "--kill-on-invalid-dep=yes", str(parts)],
        ["--parsable", "--dependency=afterok:9,afterany:71", "--kill-on-invalid-dep=yes", str(whole)],
    ]
    assert directives(parts)["array"] == "1-3"
    assert directives(parts)["output"].endswith("new shards.build-parts-%A_%a.log")
    assert directives(parts) | {"array": "", "output": ""} == directives(whole) | {"array": "", "output": ""}
    command = ["-m", "launchers.cli", "shards", "build", "scenes", "--out", "new shards", "--factors", "4"]
    # Task 2 of an array that was submitted again for this task alone.
    array = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "1"}
    assert arguments(parts, tmp_path, **array) == [*command, "--part", "2/3"]
    assert arguments(whole, tmp_path) == command
    sound(parts)


def test_an_evaluation_stands_beside_its_results(submit: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    status, out, err = submit("evaluate", "runs/a", "scenes", "--gpus", "1", "--no-maps", "--name", "UNet, 20 %")
    assert (status, out) == (DONE, "71\n"), err
    path = tmp_path / "runs" / "a" / "evaluation.evaluate.sbatch"
    assert directives(path)["job-name"] == "evaluation"
    named = ["-m", "launchers.cli", "evaluate", "runs/a", "scenes", "--no-maps", "--name", "UNet, 20 %"]
    assert arguments(path, tmp_path) == named


def test_charts_are_drawn_by_jobs(submit: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    words = ("predict", "runs/a", "scenes", "--out", "charts")
    assert submit(*words)[0] == DONE
    path = tmp_path / "charts.predict.sbatch"
    assert arguments(path, tmp_path) == ["-m", "launchers.cli", *words]
    assert submit(*words, "--parts", "2")[0] == DONE
    array = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "2"}
    parts = tmp_path / "charts.predict-parts.sbatch"
    assert arguments(parts, tmp_path, **array) == ["-m", "launchers.cli", *words, "--part", "2/2"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--again",), "--again"),
        (("--ray", "auto", "--parts", "2"), "--ray"),
        (("--with", "runs/a"), "--out"),
        (("--tta", "mirrors"), "mirrors"),
    ],
)
def test_what_would_fail_in_a_job_is_refused_before(
    words: tuple[str, ...], told: str, submit: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    status, out, err = submit("evaluate", "runs/a", "scenes", *words)
    assert (status, out, calls(tmp_path)) == (USER_ERROR, "", [])
    assert told in err


def test_runs_are_sent_by_a_job(submit: Callable[..., Answer], tmp_path: Path) -> None:
    assert submit("sync", "runs", "more", "--timeout", "60", "--after", "3")[0] == DONE
    # Not beside the folder, which may be a home folder.
    path = tmp_path / "runs" / "wandb.sync.sbatch"
    assert arguments(path, tmp_path) == ["-m", "launchers.cli", "sync", "runs", "more", "--timeout", "60"]


def test_a_study_gets_what_its_trials_take_and_goes_on(submit: Callable[..., Answer], tmp_path: Path) -> None:
    status, _, err = submit("s.yaml", "resources.finetune={ranks: 2, cpus: 6, gpus: 2}")
    assert status == DONE, err
    path = tmp_path / "studies" / "s.sweep.sbatch"
    asked = directives(path)
    assert (asked["cpus-per-task"], asked["gpus-per-node"], asked["ntasks"]) == ("6", "2", "1")
    sweep = ["-m", "launchers.cli", "sweep", "s.yaml", "resources.finetune={ranks: 2, cpus: 6, gpus: 2}"]
    assert arguments(path, tmp_path) == sweep
    assert arguments(path, tmp_path, SLURM_RESTART_COUNT="1") == [*sweep, "--resume"]


def test_a_dry_run_prints_scripts_and_does_nothing(submit: Callable[..., Answer], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    status, out, _ = submit("a.yaml", "--gpus", "2", "--dry-run")
    assert (status, out.startswith("#!/bin/bash\n"), out.count("\nset -- ")) == (DONE, True, 1)
    assert "--dry-run" not in out
    status, out, _ = submit("build", "scenes", "--out", "b", "--parts", "2", "--dry-run")
    assert (status, out.count("#!/bin/bash\n")) == (DONE, 2)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_environment_of_the_call_is_that_of_the_job(
    submit: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCTICSEG_SETUP", "/shared/my modules.sh")
    assert "export ARCTICSEG_SETUP='/shared/my modules.sh'\n" in submit("a.yaml", "--dry-run")[1]
    monkeypatch.setenv("ARCTICSEG_CONTAINER", "/shared/arcticseg.sif")
    _, out, _ = submit("a.yaml", "--dry-run")
    assert "export ARCTICSEG_CONTAINER=/shared/arcticseg.sif\n" in out
    assert "export ARCTICSEG_PYTHON" not in out


def test_a_job_knows_nothing_of_the_job_that_submits_it(
    submit: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = ("SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_GPUS_PER_TASK", "RANK", "WORLD_SIZE")
    for name in (*inside, "SLURM_CONF", "MASTER_PORT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "1")
    assert submit("a.yaml")[0] == DONE
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert {"SLURM_CONF", "MASTER_PORT", "GLOO_SOCKET_IFNAME", "PATH"} <= names
    assert not names.intersection(inside)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.yaml"], "nowhere.yaml"),
        (["a.yaml", "optim.rl=1"], "optim.rl"),
        (["a.yaml", "--nodes", "3", "--gpus", "5"], "key 'engine.global_batch_size'"),
        (["a.yaml", "--nodes", "0"], "--nodes is 0"),
        (["a.yaml", "--after", "job7"], "--after is 'job7'"),
        (["a.yaml", "data.shards=gone"], "key 'data.shards' is 'gone', which is not there"),
        (["a.yaml", "model.init_from=runs/mae"], "key 'model.init_from' is 'runs/mae', which is not there"),
        (["a.yaml", "--parts", "2"], "--parts is 2"),
        (["s.yaml", "--nodes", "2"], "--nodes and --ranks are for trainings"),
        (["s.yaml", "common.optim.rl=1"], "optim.rl"),
        (["build", "gone", "--out", "b"], "'gone', which is not there"),
        (["sync", "runs", "--parts", "2"], "--parts is 2; sync has none"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_submitted(
    words: list[str], told: str, submit: Callable[..., Answer], tmp_path: Path
) -> None:
    status, out, err = submit(*words)
    assert (status, out) == (USER_ERROR, "")
    assert told in err, err
    assert calls(tmp_path) == []


def test_what_another_job_makes_need_not_be_there(submit: Callable[..., Answer]) -> None:
    assert submit("a.yaml", "model.init_from=runs/mae", "data.shards=gone", "--after", "7")[0] == DONE
    assert submit("build", "gone", "--out", "b", "--after", "7")[0] == DONE


def test_a_run_in_the_way_is_refused(submit: Callable[..., Answer], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / METRICS).touch()
    assert "holds a run; go on with it by --resume" in submit("a.yaml")[2]
    assert submit("a.yaml", "--resume")[0] == DONE
    with open(run / TRAINING, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert in_use(run)
        assert "where another training works" in submit("a.yaml", "--resume")[2]
        # A job that follows the one that trains now.
        assert submit("a.yaml", "--resume", "--after", "71")[0] == DONE
    assert not in_use(run)
    (tmp_path / "studies" / "s" / "finetune").mkdir(parents=True)
    assert "holds a study; go on with --resume" in submit("s.yaml")[2]


def test_a_refusal_of_sbatch_is_told(submit: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSES", "Invalid account or account/partition combination specified")
    status, out, err = submit("a.yaml")
    assert (status, out) == (USER_ERROR, "")
    assert "sbatch refuses it (sbatch: error: Invalid account" in err


def test_without_sbatch_it_says_so(
    submit: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = submit("a.yaml")
    assert status == USER_ERROR
    assert "sbatch is not found" in err
