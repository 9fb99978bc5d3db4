import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shards
from arcticseg.errors import OutputError
from shards import lock
from shards.lock import LOCK, folder_lock
from shards.share import Share

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


@contextmanager
def elsewhere(path: Path, every: float) -> Iterator[None]:
    """The file of an owner on another machine, whose lock does not hold on this one; it is written to so often."""
    stop = threading.Event()

    def write() -> None:
        beat = 0
        while not stop.wait(every):
            beat += 1
            path.write_text(f"process 7 on node-b\nanother-machine {beat:09d}\n")

    path.write_text("process 7 on node-b\nanother-machine 000000000\n")
    thread = threading.Thread(target=write)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.parametrize(
    ("name", "share", "who"),
    [
        (LOCK, None, "another build works"),
        (LOCK, Share(2, 4), "another build works"),
        (".build.2-of-4.lock", None, "part 2/4 of a build works"),
        (".build.2-of-4.lock", Share(2, 4), "part 2/4 of a build works"),
    ],
)
def test_an_owner_on_another_machine_whose_lock_does_not_reach_here(
    name: str, share: Share | None, who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 1.0)
    told: list[str] = []
    with (
        elsewhere(tmp_path / name, 0.3),
        pytest.raises(OutputError, match=rf"^{tmp_path}: {who} here \(process 7 on node-b\)"),
        folder_lock(tmp_path, told.append, share),
    ):
        pass
    assert len(told) == 1
    assert "process 7 on node-b has begun here; looking for up to 1 s" in told[0]
    # It no longer writes: it was killed.
    with elsewhere(tmp_path / name, 600), folder_lock(tmp_path, told.append, share):
        (tmp_path / name).unlink(missing_ok=True)


def test_an_owner_says_again_and_again_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_BEAT", 0.02)
    with folder_lock(tmp_path, print, Share(1, 3)):
        path = tmp_path / ".build.1-of-3.lock"
        seen = {path.read_text()}
        while len(seen) < 3:
            seen.add(path.read_text())
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        assert all(text.startswith(holder) for text in seen)
    assert not list(tmp_path.iterdir())
