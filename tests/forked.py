"""Commands in processes of their own that need not load torch: they are forked from a server that has loaded it.

Loading torch, timm and DeepSpeed takes a process several seconds, longer than what most tests have it do. A forked
command has memory, environment, working folder, signals and an exit status of its own, as if a shell had started it.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

from arcticseg.ranks import free_port, without_rank_variables

ROOT = Path(__file__).parents[1]

# What commands load, also in functions.
_PRELOADED = [
    "arcticseg.evaluate",
    "arcticseg.models.decoders.light",
    "arcticseg.models.decoders.unet",
    "arcticseg.models.encoders.unet",
    "arcticseg.models.mae",
    "arcticseg.run.start",
    "deepspeed",
    "launchers.cli",
    "launchers.train",
    "shards.build",
    "shards.rtt",
    "shards.simulate",
    "sklearn.linear_model",
    "torch.utils.cpp_extension",
]
# What tests compute is small: more threads would only wait for each other.
_SETTINGS = {"OMP_NUM_THREADS": "1"}

Result = subprocess.CompletedProcess[str]


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with mock.patch.dict(os.environ, {"DS_ACCELERATOR": "cpu", "PYTHONPATH": path, **_SETTINGS}):
        multiprocessing.forkserver.ensure_running()
    return context


def stop() -> None:
    """End the server and what it runs, and wait for it: its time on the CPU is that of the tests."""
    for command in list(_running):
        command.send_signal(signal.SIGKILL)
    if _context.cache_info().currsize:
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
        _context.cache_clear()


class Forked:
    """A command that runs, with the methods of `subprocess.Popen` that tests use.

    Args:
        module: whose `main` is called: `launchers.cli`, or `launchers.train`.
        arguments: of `main`.
        ranks: processes, as a launcher starts them; each has the environment that it needs.
        merged: whether standard output and error are one text.
    """

    def __init__(self, module: str, arguments: Sequence[object], ranks: int = 1, merged: bool = False) -> None:
        environment = {"DS_ACCELERATOR": "cpu", **without_rank_variables(os.environ), **_SETTINGS}
        self.args = [module, *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._files = [Path(self._folder.name) / name for name in ("stdout", "stdout" if merged else "stderr")]
        self._process = _context().Process(
            target=_command, args=(module, self.args[1:], ranks, environment, list(map(str, self._files)))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        _running.add(self)

    @property
    def returncode(self) -> int | None:
        """Exit status; negative: number of the signal that ended it; None: it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        _running.discard(self)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; standard output and error."""
        self.wait(timeout)
        stdout, stderr = (path.read_text() for path in self._files)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        """Signal the command with all its processes."""
        if self.poll() is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                # It has not come so far as to make a group of its own.
                os.kill(self.pid, number)


_running: set[Forked] = set()
# Not left to what waits for processes at exit, should a test leave a training behind.
atexit.register(stop)


def run(*arguments: object, timeout: float = 300) -> Result:
    """The `arcticseg` command with these arguments, to its end."""
    command = Forked("launchers.cli", arguments)
    try:
        stdout, stderr = command.communicate(timeout)
    finally:
        command.send_signal(signal.SIGKILL)
    return subprocess.CompletedProcess(command.args, command.wait(), stdout, stderr)


def _command(
    module: str, arguments: Sequence[str], ranks: int, environment: Mapping[str, str], files: Sequence[str]
) -> None:
    """What the forked process does."""
    os.setsid()
    # Tests may run in the background of a shell, where Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    assert "torch" in sys.modules, "the server has not loaded what it should"
    main = importlib.import_module(module).main
    sys.exit(main(arguments) if ranks == 1 else _launch(main, arguments, ranks))


def _launch(main: functools.partial[int], arguments: Sequence[str], ranks: int) -> int:
    """Run the ranks, and end all when one fails, as DeepSpeed's launcher does; the first status that is not 0."""
    shared = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = []
    for rank in range(ranks):
        process = os.fork()
        if not process:
            for name, value in ({"RANK": rank, "LOCAL_RANK": rank} | shared).items():
                os.environ[name] = str(value)
            status = 1
            try:
                status = main(arguments)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        processes.append(process)
    # A signal to the group is for the ranks.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    first = 0
    while processes:
        process, ended = os.wait()
        processes.remove(process)
        status = os.waitstatus_to_exitcode(ended)
        if status and not first:
            first = status
            for other in processes:
                os.kill(other, signal.SIGTERM)
    return first
