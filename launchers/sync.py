"""Hands offline wandb runs to `wandb sync`, one after the other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from arcticseg.files import write_text
from arcticseg.processes import ending_with
from arcticseg.shown import redacted, visible
from arcticseg.tracking.offline import OfflineRun

# What wandb says in a line of its output where something did not go through; its status may be 0 then.
_ERRORS = ("ERROR", "Not authenticated", "No runs to sync")


@dataclass
class Sent:
    """What came of it; `failed` has a line for each offline run that did not go through."""

    sent: int = 0
    before: int = 0
    written: int = 0
    sending: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """In a line."""
        parts = [f"{self.sent} offline runs sent", f"{self.before} were before"]
        parts += [f"{self.written} are still written"] * bool(self.written)
        parts += [f"{self.sending} are being sent"] * bool(self.sending)
        return ", ".join([*parts, f"{len(self.failed)} failed"])


def listed(runs: Sequence[OfflineRun]) -> Iterator[str]:
    """A line for each offline run: how it stands, and where it is."""
    for run in runs:
        yield f"{'sent' if run.sent else 'still written' if run.written else 'to send'}: {run.folder}"


def send(runs: Sequence[OfflineRun], seconds: float, note: Callable[[str], None]) -> Sent:
    """Hand each run that is neither marked nor still written to `wandb sync`, and mark what went through.

    What a training logged after it went on must follow what it logged before. So where one part fails, those behind it
    of the same wandb run are left for the next call.

    Args:
        seconds: for one of them.
        note: is told of progress.
    """
    result, broken, sending = Sent(), set[tuple[Path, str]](), set[tuple[Path, str]]()
    for number, run in enumerate(runs, start=1):
        whole = (run.folder.resolve().parent, run.id)
        if run.sent:
            result.before += 1
            continue
        if run.written:
            result.written += 1
            note(f"{run.folder}: a training still writes it")
            continue
        if whole in broken:
            result.failed.append(f"{run.folder}: waits for an earlier part of run {run.id}")
            continue
        if whole in sending:
            result.sending += 1
            continue
        note(f"{number} of {len(runs)}: {run.folder}")
        with _alone(run) as alone:
            if alone:
                reason = _sync(run, seconds)
            else:
                sending.add(whole)
                result.sending += 1
                note(f"{run.folder}: another `arcticseg sync` sends it")
                continue
        if reason is None:
            result.sent += 1
        else:
            broken.add(whole)
            result.failed.append(f"{run.folder}: {reason}")
            note(result.failed[-1])
    return result


@contextlib.contextmanager
def _alone(run: OfflineRun) -> Iterator[bool]:
    """Whether no other process sends a run; none begins to meanwhile, where the file system has locks."""
    file = os.open(run.file, os.O_RDONLY)
    try:
        held = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = isinstance(error, BlockingIOError)
        # Another may have sent it since it was looked for.
        yield not (held or run.sent)
    finally:
        os.close(file)


def _sync(run: OfflineRun, seconds: float) -> str | None:
    """Send a run and mark it; why it failed, None: it went through."""
    # Of what is written meanwhile nobody knows whether it was sent.
    size = run.file.stat().st_size
    # A part is added to what the server has of the run.
    environment = {"WANDB_RESUME": "allow", **os.environ}
    again = ["--include-synced"] if run.mark.exists() else []
    process = subprocess.Popen(
        ["wandb", "sync", *again, str(run.folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=ending_with(os.getpid()),
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"not done in {seconds:.0f} s; see that the server answers, or give more by --timeout"
    finally:
        _end(process)
    lines = [visible(redacted(line.strip())) for line in said.splitlines() if line.strip()]
    bad = next((line for line in lines if any(text in line for text in _ERRORS)), None)
    if process.returncode or bad:
        return bad or f"status {process.returncode}: {lines[-1] if lines else 'nothing was said'}"
    write_text(run.mark, f"{size}\n")
    return None


def _end(process: subprocess.Popen[str]) -> None:
    """End wandb and the service that it has started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
