"""A build that is killed at random moments, again and again, ends with the same bytes as an undisturbed build."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shards
from shards.check import check
from tests import scenes
from tests.archive import PASSES, contents, scene_name

pytestmark = pytest.mark.slow

ROOT = Path(shards.__file__).parents[1]
KILLS = 20
SCENES = 6

# Forks a build for each folder that it reads, so that all share the imports, and a kill meets a build at work. Workers
# are forked, too, for the same reason; that they end with their parent when they are spawned is tested elsewhere.
SERVER = """
import contextlib, ctypes, multiprocessing, os, sys
from pathlib import Path
import blosc2
from arcticseg.ice.scenes.open import list_scenes
from shards import build, machines, part, workers

workers._CONTEXT = multiprocessing.get_context("fork")
# PR_SET_CHILD_SUBREAPER: workers whose parent was killed become children of this process.
ctypes.CDLL(None).prctl(36, 1)
for line in sys.stdin:
    scenes, out = line.split()
    child = os.fork()
    if not child:
        os.setsid()
        status = 1
        try:
            paths = list_scenes(scenes)
            splits = {"train": paths[3:], "val": paths[:2], "test": paths[2:3]}
            config = part.BuildConfig(tile=32, factors=(4, 10), shard_bytes=70_000)
            build.build(splits, Path(out), config, machines.Machine(workers=2), report=lambda text: None)
            status = 0
        finally:
            os._exit(status)
    print(child, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    print(status, flush=True)
"""


class Build:
    """A build in a process group of its own."""

    def __init__(self, server: subprocess.Popen[str], place: Path, out: Path) -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._answers = server.stdout
        self.began = time.time_ns()
        server.stdin.write(f"{place} {out}\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())

    def workers(self) -> list[int]:
        try:
            return list(map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            return []

    def alive(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def kill(self, what: str, choice: random.Random) -> bool:
        """Kill the whole group, the parent or a worker; return whether there was something to kill."""
        try:
            if what == "group":
                os.killpg(self.pid, signal.SIGKILL)
            elif what == "parent":
                os.kill(self.pid, signal.SIGKILL)
            else:
                os.kill(choice.choice(self.workers()), signal.SIGKILL)
        except (ProcessLookupError, IndexError):
            return False
        return True

    def status(self) -> int:
        """Wait for the end."""
        return int(self._answers.readline())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    for i in range(SCENES):
        time_, orbit, service = PASSES[i % len(PASSES)]
        name = scene_name(f"{2018 + i // len(PASSES)}{time_[4:]}", f"{int(orbit) + i:06d}", service)
        scenes.write_raw(folder / f"{name}.nc", lines=280, samples=300, seed=i)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def assert_whole_or_absent(out: Path, expected: dict[str, bytes]) -> None:
    """A file that has its own name holds what it will hold in the end."""
    for path in out.glob("*.*") if out.exists() else ():
        if not path.name.startswith("."):
            assert path.read_bytes() == expected[path.name], path


def until_shards(build: Build, out: Path) -> None:
    """Wait until a build writes its first shard, or ends."""
    while build.alive():
        # The build deletes meanwhile what an earlier build left.
        with contextlib.suppress(FileNotFoundError):
            if any(path.stat().st_mtime_ns >= build.began for path in out.glob("*.tar")):
                return
        time.sleep(0.001)


def kill_again_and_again(
    start: Callable[[], Build], out: Path, longest: float, kinds: list[str], late: bool, expected: dict[str, bytes]
) -> Counter[str]:
    """Start builds and kill processes of theirs ten times, each after up to `longest` seconds (of the second stage)."""
    choice = random.Random(late)
    met: Counter[str] = Counter()
    while sum(met.values()) < KILLS // 2:
        build = start()
        while build.alive() and sum(met.values()) < KILLS // 2:
            if late:
                until_shards(build, out)
            time.sleep(choice.uniform(0, longest))
            kind = kinds[sum(met.values()) % len(kinds)]
            if build.kill(kind, choice):
                met[kind] += 1
        if build.status() == 0:
            # The build ended before the kill; the next build starts from nothing.
            assert contents(out) == expected
            shutil.rmtree(out)
        elif out.exists():
            assert_whole_or_absent(out, expected)
    return met


def test_twenty_kills_change_no_byte(place: Path, server: subprocess.Popen[str], tmp_path: Path) -> None:
    assert Build(server, place, tmp_path / "whole").status() == 0
    expected = contents(tmp_path / "whole")
    assert len([name for name in expected if name.endswith(".tar")]) > 6
    assert check(tmp_path / "whole") == []

    # The first build also warmed the machine up.
    began = time.monotonic()
    assert Build(server, place, tmp_path / "again").status() == 0
    whole = time.monotonic() - began
    assert contents(tmp_path / "again") == expected

    out, ready = tmp_path / "killed", tmp_path / "ready"
    kinds = ["group", "worker", "parent"]
    met = kill_again_and_again(lambda: Build(server, place, out), out, 0.3 * whole, kinds, False, expected)
    assert Build(server, place, out).status() == 0
    assert contents(out) == expected

    # The second stage is short: all parts are laid ready for each attempt, as a kill left them.
    build = Build(server, place, ready)
    until_shards(build, ready)
    assert build.kill("group", random.Random())
    assert build.status() == -signal.SIGKILL

    def start() -> Build:
        if not (out / ".parts").exists():
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(ready, out)
        return Build(server, place, out)

    build = start()
    until_shards(build, out)
    began = time.monotonic()
    assert build.status() == 0
    assert contents(out) == expected
    met += kill_again_and_again(start, out, time.monotonic() - began, kinds[::2], True, expected)
    assert start().status() == 0
    assert contents(out) == expected
    assert sum(met.values()) == KILLS
    assert min(met[kind] for kind in kinds) > 2
