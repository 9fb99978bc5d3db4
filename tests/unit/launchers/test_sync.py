"""`arcticseg sync`: offline wandb runs handed to `wandb sync`."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arcticseg.run.folder import held
from launchers.cli import main
from launchers.status import DONE, PROBLEMS, USER_ERROR

# Notes what it is given; fails as often as `failures` says, in the way that `how` says.
_WANDB = """#!/bin/sh
echo "$WANDB_RESUME $*" >> {log}
left=$(cat {failures})
if [ "$left" -gt 0 ]; then
  echo $((left - 1)) > {failures}
  echo "wandb: something is wrong"
  {how}
fi
echo "wandb: Finished"
"""


class Wandb:
    """A `wandb` command on the path."""

    def __init__(self, folder: Path) -> None:
        self.log, self.failures, self.command = folder / "log", folder / "failures", folder / "bin" / "wandb"
        self.command.parent.mkdir()
        self.log.touch()
        self.fails(0)

    def fails(self, times: int, how: str = "exit 1") -> None:
        self.failures.write_text(f"{times}\n")
        self.command.write_text(_WANDB.format(log=self.log, failures=self.failures, how=how))
        self.command.chmod(0o755)

    def calls(self) -> list[str]:
        """The arguments of each call since the last time that this was asked."""
        text = self.log.read_text()
        self.log.write_text("")
        return text.splitlines()


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wandb:
    made = Wandb(tmp_path)
    monkeypatch.setenv("PATH", f"{made.command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("WANDB_RESUME", raising=False)
    return made


def offline(run: Path, time_of: str, name: str) -> Path:
    """An offline run, and where wandb says which was the latest."""
    folder = run / "wandb" / f"offline-run-20260401_{time_of}-{name}"
    folder.mkdir(parents=True)
    (folder / f"run-{name}.wandb").write_bytes(b"x" * 100)
    latest = run / "wandb" / "latest-run"
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """In the order in which they began: three runs, the second of which went on once."""
    root = tmp_path / "runs"
    return [
        offline(root / "c", "080000", "cccc"),
        offline(root / "a", "090000", "aaaa"),
        offline(root / "study" / "b", "100000", "bbbb"),
        offline(root / "a", "110000", "aaaa"),
    ]


def marks(runs: list[Path]) -> list[bool]:
    return [bool(list(folder.glob("*.wandb.synced"))) for folder in runs]


@pytest.mark.parametrize("how", ["exit 1", "echo 'wandb: ERROR no such project'; exit 0", "kill -9 $$"])
def test_what_fails_is_tried_again_and_the_rest_goes_on(
    how: str, wandb: Wandb, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(tmp_path / "runs")
    wandb.fails(2, how)
    assert main(["sync", root]) == PROBLEMS
    # The first two fail; the fourth is the rest of the second, and must come behind it.
    assert wandb.calls() == [f"allow sync {folder}" for folder in runs[:3]]
    assert marks(runs) == [False, False, True, False]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1 offline runs sent, 0 were before, 3 failed"
    assert [str(runs[number]) in line for number, line in zip((0, 1, 3), said[1:], strict=True)] == [True] * 3
    assert main(["sync", root]) == DONE
    assert wandb.calls() == [f"allow sync {folder}" for folder in (runs[0], runs[1], runs[3])]
    assert marks(runs) == [True] * 4
    assert capsys.readouterr().out == "3 offline runs sent, 1 were before, 0 failed\n"
    assert main(["sync", root]) == DONE
    assert wandb.calls() == []


def test_a_run_that_grew_is_sent_again(wandb: Wandb, runs: list[Path], tmp_path: Path) -> None:
    assert main(["sync", str(tmp_path)]) == DONE
    wandb.calls()
    with open(next(runs[1].glob("*.wandb")), "ab") as file:
        file.write(b"more")
    assert main(["sync", str(tmp_path)]) == DONE
    assert wandb.calls() == [f"allow sync --include-synced {runs[1]}"]
    # A mark of wandb's own is empty.
    next(runs[1].glob("*.synced")).write_text("")
    assert main(["sync", str(tmp_path)]) == DONE
    assert wandb.calls() == []


def test_a_run_that_is_written_is_left_for_later(
    wandb: Wandb, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The third lies elsewhere, as by WANDB_DIR.
    run = tmp_path / "elsewhere"
    (runs[2] / "arcticseg-run").write_text(f"{run}\n")
    with held(run, print), held(runs[0].parents[1], print):
        assert main(["sync", str(tmp_path / "runs"), "--dry-run"]) == DONE
        assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
            "still written",
            "to send",
            "still written",
            "to send",
        ]
        assert wandb.calls() == []
        assert main(["sync", str(tmp_path / "runs")]) == DONE
    assert wandb.calls() == [f"allow sync {folder}" for folder in (runs[1], runs[3])]
    assert capsys.readouterr().out == "2 offline runs sent, 0 were before, 2 are still written, 0 failed\n"
    assert main(["sync", str(tmp_path / "runs")]) == DONE
    assert marks(runs) == [True] * 4


def test_two_at_once_send_nothing_twice(
    wandb: Wandb, runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(next(runs[1].glob("*.wandb")), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(["sync", str(tmp_path / "runs")]) == DONE
        # The fourth must come behind the second, which another sends.
        assert wandb.calls() == [f"allow sync {folder}" for folder in (runs[0], runs[2])]
        assert capsys.readouterr().out == "2 offline runs sent, 0 were before, 2 are being sent, 0 failed\n"
    assert main(["sync", str(tmp_path / "runs")]) == DONE
    assert wandb.calls() == [f"allow sync {folder}" for folder in (runs[1], runs[3])]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_wandb_ends_with_the_command(how: signal.Signals, wandb: Wandb, runs: list[Path], tmp_path: Path) -> None:
    wandb.fails(1, f"echo $$ > {tmp_path / 'child.new'}; mv {tmp_path / 'child.new'} {tmp_path / 'child'}; sleep 60")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "launchers.cli", "sync", str(tmp_path / "runs")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (tmp_path / "child").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(how)
    process.wait()
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    until = time.monotonic() + 20
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "wandb is left behind"
        time.sleep(0.05)
    assert marks(runs) == [False] * 4


def test_a_server_that_does_not_answer_is_given_up(wandb: Wandb, runs: list[Path], tmp_path: Path) -> None:
    wandb.fails(1, f"sleep 60 & echo $! > {tmp_path / 'child'}; wait")
    began = time.monotonic()
    assert main(["sync", str(tmp_path), "--timeout", "0.5"]) == PROBLEMS
    assert time.monotonic() - began < 20
    assert marks(runs) == [False, True, True, True]
    # What wandb has started has ended, too.
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_what_cannot_be_sent_is_told_in_a_line(
    wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sync", str(tmp_path / "none")]) == USER_ERROR
    assert main(["sync", str(tmp_path), "--timeout", "0"]) == USER_ERROR
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["sync", str(tmp_path)]) == USER_ERROR
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "wandb login" in lines[2]


def test_offline_files_of_wandb_itself_are_understood(tmp_path: Path) -> None:
    sdk = pytest.importorskip("wandb")
    settings = sdk.Settings(silent=True, console="off")
    run = sdk.init(project="ice", dir=str(tmp_path), id="ab12cd34", mode="offline", settings=settings)
    run.log({"a": 1}, step=1)
    run.finish()
    from arcticseg.tracking.offline import offline_runs

    (offline_run,) = offline_runs([tmp_path])
    assert (offline_run.id, offline_run.folder) == ("ab12cd34", Path(run.dir).parent)
