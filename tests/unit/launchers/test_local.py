"""Ranks of one machine, with shell scripts in their place: however they or their launcher end, nothing is left."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arcticseg.errors import ConfigError
from launchers import local
from launchers.status import INTERRUPTED, STOPPED, USER_ERROR

pytestmark = pytest.mark.slow

Start = Callable[[str], subprocess.Popen[str]]

# A trainer: notes who it is, and ends with a status of its own when asked to.
TRAINER = "trap 'exit {status}' {signals}; echo $$ > {folder}/$RANK; while :; do sleep 0.05; done"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a launcher of two ranks in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def call(script: str) -> subprocess.Popen[str]:
        code = f"import sys; from launchers import local; sys.exit(local.run(['sh', '-c', {script!r}], 2))"
        command = [sys.executable, "-c", code]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        started.append(subprocess.Popen(command, text=True, start_new_session=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ranks(folder: Path) -> list[int]:
    """Wait for both ranks; their numbers as processes."""
    until = time.monotonic() + 20
    while not all((folder / rank).exists() and (folder / rank).read_text().strip() for rank in "01"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return [int((folder / rank).read_text()) for rank in "01"]


def assert_gone(processes: list[int]) -> None:
    until = time.monotonic() + 10
    while any(Path(f"/proc/{process}").exists() and not _dead(process) for process in processes):
        assert time.monotonic() < until, "ranks are left behind"
        time.sleep(0.02)


def _dead(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("devices", ["", "0,1,2", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-1/2/3"])
def test_as_many_ranks_as_asked_for_meet_on_loopback(
    devices: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    monkeypatch.setenv("SLURM_PROCID", "5")
    line = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $GLOO_SOCKET_IFNAME $CUDA_VISIBLE_DEVICES"
    printed, _ = start(line).communicate(timeout=30)
    expected = [f"{rank} {rank} 2 2 127.0.0.1 lo {devices}".strip() for rank in (0, 1)]
    assert sorted(printed.splitlines()) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_ranks_and_their_status_comes_back(
    number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    process = start(TRAINER.format(status="3", signals="TERM USR1", folder=tmp_path))
    both = ranks(tmp_path)
    os.kill(process.pid, number)
    assert process.wait(20) == STOPPED
    assert_gone(both)


def test_a_second_interrupt_ends_at_once(start: Start, tmp_path: Path) -> None:
    script = "trap '' TERM; echo $$ > {folder}/$RANK; while :; do sleep 0.05; done"
    process = start(script.format(folder=tmp_path))
    both = ranks(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(5) == INTERRUPTED
    assert_gone(both)


def test_a_signal_before_the_trainer_listens_means_start_again(start: Start, tmp_path: Path) -> None:
    process = start(f"echo $$ > {tmp_path}/$RANK; exec sleep 60")
    both = ranks(tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == STOPPED
    assert "--resume" in printed
    assert_gone(both)


def test_the_launcher_killed_without_a_word_ends_the_ranks(start: Start, tmp_path: Path) -> None:
    process = start(TRAINER.format(status="3", signals="TERM", folder=tmp_path))
    both = ranks(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert_gone(both)


def test_a_rank_that_is_killed_is_told_and_ends_all(start: Start, tmp_path: Path) -> None:
    process = start(TRAINER.format(status="3", signals="TERM", folder=tmp_path))
    both = ranks(tmp_path)
    os.kill(both[1], signal.SIGKILL)
    began = time.monotonic()
    printed, _ = process.communicate(timeout=20)
    assert time.monotonic() - began < 10
    assert process.returncode == 128 + signal.SIGKILL
    assert printed.startswith("arcticseg: error: rank 1 was ended by SIGKILL")
    assert_gone(both)


def test_the_first_bad_status_counts_and_the_others_may_still_speak(start: Start) -> None:
    process = start("if [ $RANK = 1 ]; then exit 2; fi; sleep 1; echo late; exit 1")
    printed, _ = process.communicate(timeout=20)
    assert (process.returncode, printed) == (USER_ERROR, "late\n")


def test_a_rank_that_is_done_waits_for_slower_ones(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start("if [ $RANK = 1 ]; then exit 3; fi; sleep 1; echo saved; exit 3")
    printed, _ = process.communicate(timeout=20)
    assert (process.returncode, printed) == (STOPPED, "saved\n")


def test_what_cannot_work_is_refused_before_a_rank_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "run", lambda *_: pytest.fail("ranks are started"))
    arguments = argparse.Namespace(config="finetune_vit", overrides=["seed=x"], resume=False, imports=[], ranks=2)
    with pytest.raises(ConfigError, match="key 'seed' is 'x'"):
        local.start(arguments)
    arguments.ranks = 0
    with pytest.raises(ConfigError, match="--ranks is 0"):
        local.start(arguments)
