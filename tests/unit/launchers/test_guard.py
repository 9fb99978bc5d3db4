"""Whatever ends its owner, a guarded command leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers import guard
from launchers.guard import LOCKED, Guarded

pytestmark = pytest.mark.slow

# A command with a child of its own, which ignores a polite request; both write down who they are.
TREE = """
trap '' TERM
sh -c 'echo $$ > {folder}/child; trap "" TERM; while :; do sleep 0.1; done' &
echo $$ > {folder}/parent
{rest}
"""


def guarded(folder: Path, script: str, grace: float = 0.5) -> Guarded:
    return Guarded(["sh", "-c", script], folder / "log", folder / "lock", os.environ, grace)


def wait_for_tree(folder: Path) -> list[int]:
    until = time.monotonic() + 20
    files = [folder / "parent", folder / "child"]
    while not all(file.exists() and file.read_text().strip() for file in files):
        assert time.monotonic() < until
        time.sleep(0.05)
    return [int(file.read_text()) for file in files]


def alive(process: int) -> bool:
    """Whether a process runs; a dead process that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def assert_gone(processes: list[int], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while any(map(alive, processes)):
        assert time.monotonic() < until, "processes are left behind"
        time.sleep(0.05)


@pytest.mark.parametrize(("script", "status"), [("echo hello", "0"), ("echo hello >&2; exit 7", "7")])
def test_tells_status_and_keeps_the_log(script: str, status: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    command = guarded(tmp_path, script)
    assert command.wait(30) == status
    command.close()
    assert (tmp_path / "log").read_text() == "before\nhello\n"


def test_wait_is_patient_only_so_long(tmp_path: Path) -> None:
    command = guarded(tmp_path, "sleep 30")
    assert command.wait(0.1) is None
    command.close()


def test_close_ends_the_whole_tree_even_if_it_ignores_sigterm(tmp_path: Path) -> None:
    command = guarded(tmp_path, TREE.format(folder=tmp_path, rest="wait"))
    tree = wait_for_tree(tmp_path)
    command.close()
    assert_gone(tree)


def test_the_owner_killed_without_a_word_ends_the_whole_tree(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from launchers.guard import Guarded\n"
        "folder = Path(sys.argv[1])\n"
        "command = Guarded(['sh', '-c', sys.argv[2]], folder / 'log', folder / 'lock', os.environ, 0.5); time.sleep(60)"
    )
    script = TREE.format(folder=tmp_path, rest="wait")
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), script], start_new_session=True)
    tree = wait_for_tree(tmp_path)
    # As Ray does: the worker, and what it has started.
    os.killpg(owner.pid, signal.SIGKILL)
    owner.wait()
    assert_gone(tree)


def test_the_guard_killed_without_a_word_ends_the_whole_tree(tmp_path: Path) -> None:
    command = guarded(tmp_path, TREE.format(folder=tmp_path, rest="wait"))
    tree = wait_for_tree(tmp_path)
    guard_process = int(Path(f"/proc/{tree[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard_process, signal.SIGKILL)
    assert command.wait(20) == ""
    assert_gone(tree)
    command.close()


def test_what_outlives_the_command_is_ended(tmp_path: Path) -> None:
    command = guarded(
        tmp_path, TREE.format(folder=tmp_path, rest=f"while [ ! -s {tmp_path}/child ]; do sleep 0.05; done; exit 3")
    )
    assert command.wait(60) == "3"
    _, child = wait_for_tree(tmp_path)
    assert not alive(child)
    command.close()


def test_a_command_gets_the_time_to_end_well(tmp_path: Path) -> None:
    end = f"trap 'sleep 0.5; echo saved > {tmp_path}/saved; exit 3' TERM"
    script = f"{end}; echo > {tmp_path}/ready; while :; do sleep 0.1; done"
    command = guarded(tmp_path, script, grace=20)
    until = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    command.close()
    while not (tmp_path / "saved").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_second_command_waits_for_the_first_and_then_gives_up(tmp_path: Path) -> None:
    first = guarded(tmp_path, "sleep 30")
    assert first.wait(0.5) is None
    second = guarded(tmp_path, "echo no", grace=0.2)
    assert second.wait(20) == LOCKED
    third = guarded(tmp_path, "echo yes", grace=20)
    first.close()
    assert third.wait(20) == "0"
    assert (tmp_path / "log").read_text() == "yes\n"
    for command in (second, third):
        command.close()


def test_the_guard_needs_no_package() -> None:
    # It is started by its path, in whatever environment a worker has.
    printed = subprocess.run(
        [sys.executable, "-S", "-c", f"import runpy; runpy.run_path({guard.__file__!r})"],
        capture_output=True,
        text=True,
    )
    assert printed.returncode == 0, printed.stderr
