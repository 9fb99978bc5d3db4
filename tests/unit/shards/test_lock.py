import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import shards
from arcticseg.errors import OutputError
from shards.lock import LOCK, folder_lock

ROOT = Path(shards.__file__).parents[1]

HOLD = """
import sys, time
from pathlib import Path
from shards.lock import folder_lock

with folder_lock(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_at_a_time_and_the_holder_is_named(tmp_path: Path) -> None:
    with folder_lock(tmp_path, print):
        holder = rf"^{tmp_path}: .*process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(OutputError, match=holder), folder_lock(tmp_path, print):
            pass
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())
    with folder_lock(tmp_path, print):
        pass


def test_a_lock_does_not_outlive_its_owner(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=rf"process {owner.pid} on "), folder_lock(tmp_path, print):
            pass
        owner.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists(), "the file is what a killed process leaves"
    with folder_lock(tmp_path, print):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_file_that_is_removed_meanwhile_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The previous owner removes the file after it was opened here: others would then lock another file."""
    real, calls = fcntl.flock, []

    def flock(file: int, how: int) -> None:
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(file)
        real(file, how)

    monkeypatch.setattr("shards.lock.fcntl.flock", flock)
    with folder_lock(tmp_path, print):
        assert len(calls) == 2
        monkeypatch.undo()
        with pytest.raises(OutputError), folder_lock(tmp_path, print):
            pass


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("shards.lock.fcntl.flock", flock)
    told: list[str] = []
    with folder_lock(tmp_path, told.append):
        pass
    (text,) = told
    assert text.startswith(f"warning: {tmp_path}: ")
    assert "no locks" in text
