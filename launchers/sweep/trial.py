"""A trial of a sweep, as a Ray worker runs it: start a training, follow its validations, tell how it ended."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arcticseg.errors import ArcticSegError
from arcticseg.files import make_folder
from arcticseg.ranks import without_rank_variables
from arcticseg.run.folder import LOCK, LOG, METRICS
from launchers.command import command
from launchers.guard import GRACE, LOCKED, Guarded
from launchers.status import DONE, ERROR_PREFIX, STOPPED

# Key under which a trial reports why it fails, in one line.
FAILURE = "failure"


class TrialError(RuntimeError):
    """A training that ended badly, for a reason in one line."""


@dataclass(frozen=True)
class Specification:
    """What a Ray worker is told of its trial.

    Attributes:
        config: path of the resolved config.
        folder: of the run.
        ranks: processes of the training.
        resume: whether to go on from the newest checkpoint.
        path: folder that the training finds modules in, too; None: none.
    """

    config: str
    folder: str
    ranks: int
    resume: bool
    path: str | None = None


def run_trial(specification: Specification, report: Callable[[dict[str, Any]], None]) -> None:
    """Train a trial; what a Ray worker calls.

    Args:
        report: takes step and scores of each validation, and at last `failure` where there is a failure.

    Raises:
        TrialError: the training ended badly.
    """
    try:
        _run_trial(specification, report)
    except Exception as error:
        report({FAILURE: str(error) if isinstance(error, (TrialError, ArcticSegError)) else repr(error)})
        raise


def _run_trial(specification: Specification, report: Callable[[dict[str, Any]], None]) -> None:
    folder = make_folder(Path(specification.folder))
    log = folder / LOG
    begin = log.stat().st_size if log.exists() else 0
    validations = Validations(folder / METRICS)
    # What a launcher around the sweep may have set is not for the training.
    environment = without_rank_variables(os.environ)
    # Each trial is a run of its own.
    environment.pop("WANDB_RUN_ID", None)
    if specification.path is not None:
        path = (specification.path, environment.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    command_line = command(specification.config, resume=specification.resume, ranks=specification.ranks)
    guarded = Guarded(command_line, log, folder / LOCK, environment)
    try:
        status = None
        while status is None:
            status = guarded.wait(1.0)
            for scores in validations.new():
                report(scores)
    finally:
        guarded.close()
    if status != str(DONE):
        raise TrialError(_reason(status, log, begin))


class Validations:
    """Follows a metrics.jsonl that a training writes, and may begin again."""

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
        scores = []
        for line in whole.splitlines():
            record = json.loads(line)
            if record.get("kind") == "validation" and record["step"] > self._step:
                self._step = record["step"]
                # Scores of each class stay in the file: a hundred numbers a validation, which no sweep looks at.
                told = {key: value for key, value in record.items() if key != "kind" and "/" not in key}
                scores.append({key: value for key, value in told.items() if value is not None})
        return scores


def _reason(status: str, log: Path, begin: int) -> str:
    """Why a training failed: its own error line, else how it ended; and where its log is."""
    if status == LOCKED:
        return f"another training has worked in {log.parent} for {1.5 * GRACE:.0f} s; end it, then --resume"
    with open(log, "rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if line.startswith(ERROR_PREFIX)), None)
    if told is None and status == str(STOPPED):
        return f"stopped by a signal after a checkpoint; go on with --resume (log: {log})"
    if told is None:
        last = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no output")
        told = f"exit status {status or 'unknown'}, {last}"
    return f"{told.removeprefix(ERROR_PREFIX)} (log: {log})"
