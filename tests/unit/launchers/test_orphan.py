"""Ranks whose launcher has gone, with a shell script in the launcher's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers import orphan
from launchers.orphan import launchers

RANK = """
import pathlib, signal, sys, time
from launchers import orphan
folder = pathlib.Path(sys.argv[1])
def saved(*_):
    (folder / "saved").touch()
    sys.exit(3)
signal.signal(signal.SIGTERM, saved if sys.argv[2] == "saves" else signal.SIG_IGN)
orphan.watch(poll=0.05, grace=0.5)
(folder / "rank").write_text(str(__import__("os").getpid()))
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def hangs_up() -> Iterator[None]:
    """SIGHUP as it is outside nohup, also in the processes that a test starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def wait(what: object, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.02)


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("manner", ["saves", "hangs"])
def test_a_rank_ends_after_its_launcher(manner: str, tmp_path: Path) -> None:
    script = tmp_path / "torchrun"
    script.write_text('"$@" & wait')
    (tmp_path / "rank.py").write_text(RANK)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "RANK": "0"}
    command = ["sh", script, sys.executable, tmp_path / "rank.py", tmp_path, manner]
    launcher = subprocess.Popen(command, env=environment)
    wait(lambda: (tmp_path / "rank").exists() and (tmp_path / "rank").read_text())
    rank = int((tmp_path / "rank").read_text())
    time.sleep(0.3)
    assert lives(rank)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    wait(lambda: not lives(rank))
    assert (tmp_path / "saved").exists() == (manner == "saves")


def test_launchers_are_known_by_their_command_lines() -> None:
    parent = os.getppid()
    assert launchers(os.getpid(), lambda _: ["bash", "run_deepspeed.sh"]) == {}
    for line in (
        "python -u -m deepspeed.launcher.launch",
        "python -m torch.distributed.run --nproc-per-node",
        "/v/bin/python /v/bin/torchrun --standalone",
        "/v/bin/deepspeed --num_gpus 4",
    ):
        words = {parent: line.split()}
        assert list(launchers(os.getpid(), lambda process, words=words: words.get(process, ["bash"]))) == [parent]


@pytest.mark.parametrize(
    ("above", "watched"),
    [
        (["sshd: root@notty"], 1),
        (["/usr/bin/sshd-session: ice@notty"], 1),
        (["bash -c export;", "sshd: root@notty"], 1),
        # Whoever logs out of a terminal does not end what runs beyond it.
        (["-bash", "sshd: ice@pts/3"], 0),
        (["bash", "tmux"], 0),
        (["/usr/sbin/sshd -D"], 0),
    ],
)
def test_the_session_of_pdsh_is_watched_with_the_launcher(
    above: list[str], watched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["python rank.py", "python -u -m deepspeed.launcher.launch", *above, "init"]
    # Process i was started by process i + 1, at the time i.
    fields = {place: ["S", str(place + 1), *[""] * 17, str(place)] for place in range(len(lines))}
    monkeypatch.setattr(orphan, "_status", fields.get)

    def command(process: int) -> list[str]:
        # What sets its title has a single word.
        return [lines[process]] if ": " in lines[process] else lines[process].split()

    named = launchers(0, command)
    assert [lines[place] for place in named] == [lines[1], *above[len(above) - watched :]][: 1 + watched]
    assert all(named[place] == str(place) for place in named)


def test_what_nohup_has_started_outlives_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["python rank.py", "deepspeed train.py", "sshd: root@notty"]
    fields = {place: ["S", str(place + 1), *[""] * 17, "1"] for place in range(3)}
    monkeypatch.setattr(orphan, "_status", fields.get)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        named = launchers(0, lambda process: [lines[process]] if process == 2 else lines[process].split())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert list(named) == [1]


def test_a_rank_ends_when_pdsh_has_gone_though_its_session_stays(tmp_path: Path) -> None:
    """A process that bears the name of a session, with a launcher in it; the test holds its input as pdsh does."""
    (tmp_path / "rank.py").write_text(RANK)
    launcher = tmp_path / "deepspeed" / "launcher" / "launch.py"
    launcher.parent.mkdir(parents=True)
    launcher.write_text('exec 3<&0; "$@" <&3 & wait')
    session = "import subprocess, sys; subprocess.run(sys.argv[1:]); import time; time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "RANK": "0"}
    rank = [sys.executable, str(tmp_path / "rank.py"), str(tmp_path), "saves"]
    words = ["sshd: ice@notty", "-c", session, "sh", str(launcher), *rank]
    sshd = subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE, env=environment)
    try:
        wait(lambda: (tmp_path / "rank").exists() and (tmp_path / "rank").read_text())
        number = int((tmp_path / "rank").read_text())
        time.sleep(0.5)
        assert lives(number)
        assert sshd.stdin is not None
        sshd.stdin.close()
        wait(lambda: not lives(number))
        assert (tmp_path / "saved").exists()
        assert sshd.poll() is None
    finally:
        sshd.kill()
        sshd.wait()
