"""One trial of a sweep, as a Ray worker runs it: start a training, follow its validations, tell how it ended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from arcticseg.errors import ArcticSegError
from arcticseg.files import make_folder
from arcticseg.tracking import METRICS
from launchers.command import command as training_command
from launchers.guard import GRACE, LOCKED, Guarded

# In the run folder: what the training prints.
LOG = "train.log"
# Key under which a trial reports why it fails, in one line.
FAILURE = "failure"

# What a launcher around the sweep may have set, and what no training below it may see.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class TrialError(RuntimeError):
    """A training that ended badly, for a reason in one line."""


def run_trial(specification: Mapping[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    """Train one trial; what a Ray worker calls.

    Args:
        specification: path of the `config`, run `folder`, number of `ranks`, whether to `resume`.
        report: takes step and scores of each validation, and `failure` at last where there is one.

    Raises:
        TrialError: the training ended badly.
    """
    try:
        _run_trial(specification, report)
    except Exception as error:
        report({FAILURE: str(error) if isinstance(error, (TrialError, ArcticSegError)) else repr(error)})
        raise


def _run_trial(specification: Mapping[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    folder = make_folder(Path(specification["folder"]))
    log = folder / LOG
    begin = log.stat().st_size if log.exists() else 0
    validations = Validations(folder / METRICS)
    command = training_command(specification["config"], [], specification["resume"], specification["ranks"])
    environment = {key: value for key, value in os.environ.items() if key not in _RANK_VARIABLES}
    guarded = Guarded(command, log, folder / ".lock", environment)
    try:
        status = None
        while status is None:
            status = guarded.wait(1.0)
            for scores in validations.new():
                report(scores)
    finally:
        guarded.close()
    if status != "0":
        raise TrialError(_reason(status, log, begin))


class Validations:
    """Follows a metrics.jsonl that a training writes, and may begin anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset, self._step = -1, 0, -1

    def new(self) -> list[dict[str, Any]]:
        """Step and scores of the validations since the last call."""
        try:
            with open(self._path, "rb") as file:
                if (inode := os.fstat(file.fileno()).st_ino) != self._inode:
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = []
        for line in whole.splitlines():
            record = json.loads(line)
            if record.get("kind") == "validation" and record["step"] > self._step:
                self._step = record["step"]
                found.append({key: value for key, value in record.items() if key != "kind" and value is not None})
        return found


def _reason(status: str, log: Path, begin: int) -> str:
    """Why a training failed: its own error line, else how it ended; and where its log is."""
    if status == LOCKED:
        return f"another training has worked in {log.parent} for {1.5 * GRACE:.0f} s; end it, then --resume"
    with open(log, "rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    prefix = "arcticseg: error: "
    told = next((line.removeprefix(prefix) for line in reversed(lines) if line.startswith(prefix)), None)
    if told is None and status == "3":
        return f"stopped by a signal after a checkpoint; go on with --resume (log: {log})"
    if told is None:
        last = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no output")
        told = f"exit status {status or 'unknown'}, {last}"
    return f"{told} (log: {log})"
